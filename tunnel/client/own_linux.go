package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// leadsHere asks the routing table (rtnetlink(7), RTM_GETROUTE) whether packets to addr end at this machine: because the address
// is its own, because a network is routed to it (type local), or because it is one of all on a link (broadcast, anycast).
func leadsHere(addr netip.Addr) bool {
	kind, err := routeType(addr)
	if err != nil {
		return sourceLeadsHere(addr)
	}
	switch kind {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return true
	}
	return false
}

// routeType is the type of the route that a packet to addr would take.
func routeType(addr netip.Addr) (uint8, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, fmt.Errorf("set netlink timeout: %w", err)
	}
	if err := unix.Sendto(fd, routeRequest(addr), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for route: %w", err)
	}
	b := make([]byte, 8192)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return 0, fmt.Errorf("read route: %w", err)
	}
	if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
		return 0, errors.New("read route: not from the kernel")
	}
	messages, err := syscall.ParseNetlinkMessage(b[:n])
	if err != nil {
		return 0, fmt.Errorf("read route: %w", err)
	}
	for _, m := range messages {
		if m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) >= unix.SizeofRtMsg {
			return m.Data[unsafe.Offsetof(unix.RtMsg{}.Type)], nil
		}
	}
	return 0, errors.New("read route: there is none")
}

// routeRequest is an RTM_GETROUTE for one address.
func routeRequest(addr netip.Addr) []byte {
	family, octets := byte(unix.AF_INET), addr.AsSlice()
	if addr.Is6() {
		family = unix.AF_INET6
	}
	size := unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + len(octets)
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg, size)
	order := binary.NativeEndian
	order.PutUint32(b[0:], uint32(size))
	order.PutUint16(b[4:], unix.RTM_GETROUTE)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	order.PutUint32(b[8:], 1)
	b[unix.SizeofNlMsghdr] = family
	b[unix.SizeofNlMsghdr+1] = byte(8 * len(octets))
	b = order.AppendUint16(b, uint16(unix.SizeofRtAttr+len(octets)))
	b = order.AppendUint16(b, unix.RTA_DST)
	return append(b, octets...)
}
