//go:build linux && !client

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// begin is what package net calls with a socket that it is about to connect. It connects it: between two sockets of one host
// the handshake is over when the first call returns, and the second says so, or how it ended. Package net, which is told that
// the socket is connected already, would wait for the poller instead, with one more goroutine to watch ctx. What takes longer
// is left to it.
func (d *direct) begin(_ context.Context, network, address string, c syscall.RawConn) error {
	if d.Control != nil {
		if err := d.Control(network, address, c); err != nil {
			return err
		}
	}
	to, err := netip.ParseAddrPort(address)
	if !strings.HasPrefix(network, "tcp") || err != nil || to.Addr().Zone() != "" {
		return nil
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		for range 2 {
			if failed = connect(fd, to); failed == nil {
				return
			}
		}
	})
	switch {
	case err != nil:
		return err
	case errors.Is(failed, unix.EINPROGRESS), errors.Is(failed, unix.EALREADY), errors.Is(failed, unix.EINTR):
		return nil
	}
	return os.NewSyscallError("connect", failed)
}

// connect is connect(2) past Go's scheduler, to which a call that goes through two TCP stacks looks blocked. The socket is
// non-blocking.
func connect(fd uintptr, to netip.AddrPort) error {
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], to.Port())
	var errno syscall.Errno
	if to.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: binary.NativeEndian.Uint16(port[:]), Addr: to.Addr().As4()}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
	} else {
		sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: binary.NativeEndian.Uint16(port[:]), Addr: to.Addr().As16()}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
