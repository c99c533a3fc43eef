//go:build linux && !client

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// sandboxEnd is PID 1's end of the dial socket, played by the test.
type sandboxEnd struct {
	t  *testing.T
	fd int
}

func newDialerUnderTest(t *testing.T) (*insideDialer, sandboxEnd) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	i, err := newInsideDialer(os.NewFile(uintptr(pair[0]), "dial"))
	if err != nil {
		t.Fatal(err)
	}
	return i, sandboxEnd{t, pair[1]}
}

func (s sandboxEnd) asked() uint16 {
	s.t.Helper()
	var b [2]byte
	if n, err := unix.Read(s.fd, b[:]); err != nil || n != 2 {
		s.t.Fatal(n, err)
	}
	return binary.BigEndian.Uint16(b[:])
}

// answer sends a connection on which the port's number can be read, or an error.
func (s sandboxEnd) answer(port uint16, errno syscall.Errno) {
	s.t.Helper()
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, port), uint16(errno))
	var rights []byte
	if errno == 0 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		unix.Write(pair[1], b[:2])
		rights = unix.UnixRights(pair[0])
	}
	if err := unix.Sendmsg(s.fd, b, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		s.t.Fatal(err)
	}
}

// Each connection leads to the port that was asked for, in whatever order the answers come.
func TestInsideDialerAnswersCross(t *testing.T) {
	inside, end := newDialerUnderTest(t)
	defer unix.Close(end.fd)
	type result struct {
		conn net.Conn
		err  error
	}
	results := map[uint16]chan result{8080: make(chan result, 1), 8081: make(chan result, 1), 8082: make(chan result, 1)}
	for port, to := range results {
		go func() {
			c, err := inside.dial(port)
			to <- result{c, err}
		}()
	}
	for range results {
		end.asked()
	}
	end.answer(9, 0) // nobody asked for it
	for _, port := range []uint16{8082, 8080} {
		end.answer(port, 0)
	}
	end.answer(8081, syscall.ECONNREFUSED)
	for port, from := range results {
		r := <-from
		if port == 8081 {
			if !errors.Is(r.err, syscall.ECONNREFUSED) {
				t.Errorf("port %d: %v", port, r.err)
			}
			continue
		}
		if r.err != nil {
			t.Errorf("port %d: %v", port, r.err)
			continue
		}
		var b [2]byte
		r.conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := r.conn.Read(b[:]); err != nil || binary.BigEndian.Uint16(b[:]) != port {
			t.Errorf("port %d leads to %d, %v", port, binary.BigEndian.Uint16(b[:]), err)
		}
		r.conn.Close()
	}
}

// When the sandbox is gone nobody waits for it.
func TestInsideDialerSandboxGone(t *testing.T) {
	inside, end := newDialerUnderTest(t)
	failed := make(chan error, 1)
	go func() {
		_, err := inside.dial(8080)
		failed <- err
	}()
	end.asked()
	unix.Close(end.fd)
	for _, err := range []error{<-failed, func() error { _, err := inside.dial(8080); return err }()} {
		if err == nil {
			t.Error("dialled into nothing")
		}
	}
}
