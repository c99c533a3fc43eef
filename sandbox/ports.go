//go:build linux

package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenAll listens on both loopback addresses for each port. IPv6 is left out where lo has none.
func listenAll(ports []uint16) ([]listener, error) {
	var all []listener
	for _, port := range ports {
		for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			fd, err := listenTCP(netip.AddrPortFrom(addr, port))
			if addr.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				continue
			}
			if err != nil {
				return nil, &SetupError{Step: StepListen, Path: netip.AddrPortFrom(addr, port).String(), Err: err}
			}
			all = append(all, listener{port, fd})
		}
	}
	return all, nil
}

func listenTCP(at netip.AddrPort) (int, error) {
	var family int
	var sa unix.Sockaddr
	if at.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		if err = unix.Bind(fd, sa); err == nil {
			err = unix.Listen(fd, unix.SOMAXCONN)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

const (
	maxDials    = 64              // requests worked on at a time
	dialTimeout = 5 * time.Second // on loopback only a full backlog takes time
)

// serveDial answers requests for connections to the sandbox's loopback (see [Sandbox.DialSocket]) until the other end
// is closed, which it returns.
func serveDial() (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, &SetupError{Step: StepInit, Path: "dial socket", Err: err}
	}
	ours, err := newControl(pair[0])
	if err != nil {
		unix.Close(pair[1])
		return -1, &SetupError{Step: StepInit, Path: "dial socket", Err: err}
	}
	go answerDials(ours.conn)
	return pair[1], nil
}

func answerDials(c *net.UnixConn) {
	defer c.Close()
	slots := make(chan struct{}, maxDials)
	var buf [3]byte
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return
		}
		if n != 2 {
			continue // not a port
		}
		port := binary.BigEndian.Uint16(buf[:])
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			answerDial(c, port)
		}()
	}
}

func answerDial(c *net.UnixConn, port uint16) {
	reply := binary.BigEndian.AppendUint16(nil, port)
	conn, err := dialLoopback(port)
	if err != nil {
		c.Write(binary.BigEndian.AppendUint16(reply, uint16(errnoOf(err))))
		return
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return // closed: cannot happen here
	}
	raw.Control(func(fd uintptr) {
		c.WriteMsgUnix(binary.BigEndian.AppendUint16(reply, 0), unix.UnixRights(int(fd)), nil)
	})
}

// dialLoopback connects to 127.0.0.1, or to ::1 where the former refuses.
func dialLoopback(port uint16) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
	if err != nil {
		c, err = d.Dial("tcp6", netip.AddrPortFrom(netip.IPv6Loopback(), port).String())
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// errnoOf never returns 0.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errno != 0:
		return errno
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.ETIMEDOUT
	}
	return unix.EIO
}
