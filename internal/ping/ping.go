// Package ping sends ICMP echo requests to the outside world without any privilege.
//
// Linux has a socket for exactly that: SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6. What is written to it is an echo
// request from its type octet on; the kernel puts its own identifier and checksum in, and what is read are the replies
// to that identifier and nothing else. So a program in a sandbox can ping through weir, and neither it nor weir can
// forge any other ICMP message. Whether a process may open such a socket is decided by its group and the sysctl
// net.ipv4.ping_group_range, for both families; where it is closed, [Dial] says so with [ErrForbidden].
//
// The identifier of a reply is the kernel's, not the one that was written. The netstack door restores it on its way to
// the sandbox (flow.Arrival.Accept), so callers may pass messages through unread.
package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ErrForbidden is returned, wrapped, when the host does not let this process open a ping socket.
var ErrForbidden = errors.New("ping sockets are not allowed for this process's group by the sysctl net.ipv4.ping_group_range")

// Dial opens a ping socket to addr, which must be valid; an IPv4-mapped IPv6 address is taken as IPv4, a zone is
// honoured. The caller closes the connection.
//
// One Write is one echo request (RFC 792, RFC 4443 section 4.1) of at least 8 octets, whose identifier and checksum
// the kernel replaces; other message types are refused with EINVAL. One Read is one echo reply, cut to the buffer's
// length. An ICMP error about one of the requests ends the next Read or Write with EHOSTUNREACH, ENETUNREACH,
// ECONNREFUSED or EACCES, wrapped. Deadlines work as for UDP.
//
// The error wraps [ErrForbidden] when ping sockets are closed to this process. Nothing is sent before the first Write,
// so ctx only matters when it has ended already.
func Dial(ctx context.Context, addr netip.Addr) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial icmp: %w", err)
	}
	if !addr.IsValid() {
		return nil, errors.New("dial icmp: no address")
	}
	addr = addr.Unmap()
	peer, err := sockaddr(addr)
	if err != nil {
		return nil, fmt.Errorf("dial icmp %s: %w", addr, err)
	}
	fd, err := open(addr.Is4())
	if err != nil {
		return nil, fmt.Errorf("dial icmp %s: %w", addr, err)
	}
	// net.FileConn makes its own copy of the descriptor.
	file := os.NewFile(uintptr(fd), "ping")
	defer file.Close()
	if err := unix.Connect(fd, peer); err != nil {
		return nil, fmt.Errorf("dial icmp %s: %w", addr, os.NewSyscallError("connect", err))
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("dial icmp %s: %w", addr, err)
	}
	return conn, nil
}

// open returns a non-blocking ping socket that reports every ICMP error, transient ones included.
func open(v4 bool) (int, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	if v4 {
		family, proto = unix.AF_INET, unix.IPPROTO_ICMP
		level, option = unix.IPPROTO_IP, unix.IP_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if errors.Is(err, unix.EACCES) {
		return -1, fmt.Errorf("%w: %w", ErrForbidden, os.NewSyscallError("socket", err))
	}
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// Without it an unreachable host or network would look like one that is merely silent.
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

func sockaddr(addr netip.Addr) (unix.Sockaddr, error) {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("zone: %w", err)
		}
		sa.ZoneId = uint32(ifi.Index)
	}
	return sa, nil
}
