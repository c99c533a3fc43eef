//go:build linux && !client

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
)

// serveHostPort carries connections to localhost:port inside to the host's own loopback. The listener is a socket of the
// sandbox's network namespace, so the handshake is over when the flow arrives here.
func (d *dataPath) serveHostPort(ctx context.Context, f *os.File, port uint16) error {
	ln, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("open host port %d: %w", port, err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	go acceptEach(ln, func(c net.Conn) {
		src, dst := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
		d.gate.Handle(ctx, flow.Arrival{
			Network: "tcp", Src: src, Dst: dst,
			Accept: func() (net.Conn, error) { return c, nil },
			Reject: func(flow.Reason) error { return reset(c) },
		})
	})
	return nil
}

// servePublished offers a port of the sandbox on the host's loopback.
func (d *dataPath) servePublished(ctx context.Context, f *os.File, port uint16) error {
	ln, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("open published port %d: %w", port, err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	inside, err := d.insideDialer()
	if err != nil {
		return err
	}
	go acceptEach(ln, func(c net.Conn) {
		d.gate.Inbound(ctx, c, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), func() (net.Conn, error) { return inside.dial(port) })
	})
	return nil
}

// acceptEach hands every connection to serve, on a goroutine of its own, until the listener is closed.
func acceptEach(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil) // EMFILE and its kin pass; spinning on them does not help
			continue
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

func reset(c net.Conn) error {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	return c.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
