//go:build linux

package batch

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// What one message of segments may hold: UDP_MAX_SEGMENTS of Linux before 6.9, and a packet with the longest IP header.
const (
	maxSegments = 64
	maxTotal    = 65535 - 60 - 8
)

// Socket is a connected UDP socket of the kernel. One goroutine may send and one receive at a time. It does not own the
// connection that it was made of, and ends with it.
type Socket struct {
	raw syscall.RawConn

	// segment is the largest size for which UDP_SEGMENT was not refused so far; 0 when the kernel does not know it.
	segment atomic.Int32
	stats   *Stats
	sys     calls
}

// Stats counts what is worth knowing about all the sockets that share it. The zero value is ready.
type Stats struct {
	// Refused is how often a kernel or a device refused to segment, and a socket went on without, or with smaller segments.
	Refused atomic.Uint64

	// Lost is how many datagrams were larger than the path takes, or met a full queue.
	Lost atomic.Uint64
}

// calls are the system calls; tests put failing ones in their place.
type calls struct {
	send, receive func(fd uintptr, m []message, flags int) (int, syscall.Errno)
}

// ErrNoSocket is returned for connections that are no UDP sockets of the kernel.
var ErrNoSocket = errors.New("not a udp socket")

// NewSocket makes a Socket of conn, which must be connected and stays the caller's. stats may be nil.
func NewSocket(conn net.Conn, stats *Stats) (*Socket, error) {
	owner, ok := conn.(syscall.Conn)
	if !ok {
		return nil, ErrNoSocket
	}
	raw, err := owner.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("udp socket: %w", err)
	}
	if stats == nil {
		stats = &Stats{}
	}
	s := &Socket{raw: raw, stats: stats, sys: calls{send: sendmmsg, receive: recvmmsg}}
	protocol := 0
	err = raw.Control(func(fd uintptr) {
		protocol, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
		// A kernel that does not know UDP_SEGMENT takes no notice of it and would send all segments as one.
		if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
			s.segment.Store(MaxSize)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("udp socket: %w", err)
	}
	if protocol != unix.IPPROTO_UDP {
		return nil, ErrNoSocket
	}
	return s, nil
}
