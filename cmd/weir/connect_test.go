//go:build linux && !client

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestDirectConnects(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("no %s: %v", host, err)
			continue
		}
		d := newDirect(nil, nil)
		seen := 0
		d.Control = func(string, string, syscall.RawConn) error { seen++; return nil }
		conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if conn.LocalAddr().String() != peer.RemoteAddr().String() || conn.RemoteAddr().String() != ln.Addr().String() || seen != 1 {
			t.Errorf("%s to %s; the peer sees %s; %d calls of Control", conn.LocalAddr(), conn.RemoteAddr(), peer.RemoteAddr(), seen)
		}
		go peer.Write([]byte("hello"))
		conn.SetReadDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(io.LimitReader(conn, 5)); string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		ln.Close()
		if _, err := d.DialContext(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
		d.Control = func(string, string, syscall.RawConn) error { return syscall.EPERM }
		if _, err := d.DialContext(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.EPERM) {
			t.Errorf("with a Control that refuses: %v", err)
		}
	}
}

// A server whose backlog is full does not answer: the dial waits, and ends with its context.
func TestDirectWaits(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*syscall.SockaddrInet4).Port}
	d := newDirect(nil, nil)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		conn, err := d.DialContext(ctx, "tcp", at.String())
		if err == nil {
			defer conn.Close()
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) { // whichever timer is first
			t.Errorf("%v, want the deadline", err)
		}
		return
	}
	t.Error("nothing had to wait")
}
