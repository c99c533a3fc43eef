//go:build linux

package rules

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Where the search for a free NFLOG group and NFQUEUE number begins, and how far it goes: one of each for a guest.
const (
	firstGroup = 1077
	maxGroups  = 4096
)

// openGuest opens the guest's sockets. On error nothing stays open.
func (h *Host) openGuest(g Guest) (made *guest, list []Socket, err error) {
	made = &guest{Guest: g}
	defer func() {
		if err != nil {
			for _, s := range list {
				unix.Close(s.FD)
			}
			list = nil
		}
	}()
	for i, f := range families() {
		if !has(g.Addrs, f) || i == 1 && !h.v6 {
			continue
		}
		at := netip.AddrPortFrom(loopback(f), 0)
		for _, s := range []struct {
			kind string
			open func() (int, error)
			port *uint16
		}{
			{KindTCP, func() (int, error) { return listenTCP(at) }, &made.tcp[i]},
			{KindUDP, func() (int, error) { return listenUDP(at, true) }, &made.udp[i]},
			{KindDNS, func() (int, error) { return listenUDP(at, true) }, &made.dns[i]},
			{KindDNS2, func() (int, error) { return listenTCP(at) }, &made.dns2[i]},
			{KindICMP, func() (int, error) { return rawICMP(loopback(f)) }, nil},
		} {
			fd, err := s.open()
			if err != nil {
				return nil, list, fmt.Errorf("open %s socket: %w", s.kind, err)
			}
			list = append(list, Socket{Kind: s.kind, FD: fd})
			if err := h.markReply(fd); err != nil {
				return nil, list, err
			}
			if s.port != nil {
				if *s.port, err = portOf(fd); err != nil {
					return nil, list, err
				}
			}
		}
	}
	fd, group, err := firstFree(func(n uint16) (int, error) { return Inside{LogGroup: n}.listenLog() })
	if err != nil {
		return nil, list, fmt.Errorf("listen for dropped packets: %w", err)
	}
	list, made.group = append(list, Socket{Kind: KindLog, FD: fd}), group
	if h.holding.way < len(Inside{}.holdLines()) {
		if fd, queue, err := firstFree(func(n uint16) (int, error) { return Inside{Queue: n}.listenQueue() }); err == nil {
			list, made.queue, made.held = append(list, Socket{Kind: KindQueue, FD: fd, Queue: queue}), queue, true
		}
	}
	return made, list, nil
}

// markReply marks what the socket sends to a container: a connection that begins with such a packet is none whose replies
// pass.
func (h *Host) markReply(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(h.numbers.marks().Reply)); err != nil {
		return fmt.Errorf("mark socket: %w", err)
	}
	return nil
}

func has(addrs []netip.Addr, f family) bool {
	for _, a := range addrs {
		if a.Is4() == (f.len == 4) {
			return true
		}
	}
	return false
}

// firstFree opens with the first number that nobody else has.
func firstFree(open func(n uint16) (int, error)) (fd int, number uint16, err error) {
	for n := uint16(firstGroup); n < firstGroup+maxGroups; n++ {
		fd, err = open(n)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
			return fd, n, err
		}
	}
	return -1, 0, err
}

func portOf(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), err
	case *unix.SockaddrInet6:
		return uint16(sa.Port), err
	}
	return 0, fmt.Errorf("find port of listener: %w", errors.Join(err, unix.EAFNOSUPPORT))
}
