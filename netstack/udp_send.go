package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/weir-dev/weir/internal/batch"
)

// sendUDPs sends datagrams into the sandbox, those of one size that follow each other as one super-datagram where the
// device takes them. done is how many were sent, or lost because the device has no room. The error is another one of
// [Stack.sendUDP], and about the next.
func (s *Stack) sendUDPs(from, to netip.AddrPort, datagrams [][]byte) (done int, err error) {
	headers := udpHeaders(to.Addr())
	for len(datagrams) > 0 {
		n, largest := 1, int(s.link.MTU())-headers
		if !s.link.vnet || len(datagrams[0]) > largest {
			if err := s.sendUDP(from, to, datagrams[0]); err != nil && !noRoom(err) {
				return done, err
			}
		} else {
			if s.link.uso.Load() {
				n, _ = batch.Run(datagrams, batch.Limits{Segment: largest, Total: gsoMaxSize - headers, Count: maxUSOSegments})
			}
			if err := s.link.writeUDP(from, to, datagrams[:n]); err != nil && !noRoom(err) {
				return done, err
			}
		}
		datagrams, done = datagrams[n:], done+n
	}
	return done, nil
}

// noRoom says whether a datagram was lost for want of room in the device.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EAGAIN) }

// udpHeaders is the size of the headers of a datagram to addr.
func udpHeaders(addr netip.Addr) int {
	if addr.Is4() {
		return header.IPv4MinimumSize + header.UDPMinimumSize
	}
	return header.IPv6MinimumSize + header.UDPMinimumSize
}

// sendUDP sends one datagram into the sandbox, in fragments when it is larger than the MTU. The error wraps EMSGSIZE for
// one that is larger than UDP allows and ENOBUFS or EAGAIN for one that the device has no room for.
func (s *Stack) sendUDP(from, to netip.AddrPort, p []byte) error {
	v4 := to.Addr().Is4()
	limit, ipHeader := maxUDP6, header.IPv6MinimumSize
	if v4 {
		limit, ipHeader = maxUDP4, header.IPv4MinimumSize
	}
	if len(p) > limit {
		return fmt.Errorf("send udp: %w", syscall.EMSGSIZE)
	}
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	size := header.UDPMinimumSize + len(p)
	var buf [header.IPv6MinimumSize + header.UDPMinimumSize]byte
	h := header.UDP(buf[ipHeader:][:header.UDPMinimumSize])
	h.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(size)})
	h.SetChecksum(udpChecksum(h, src, dst, p))

	if ipHeader+size > int(s.link.MTU()) {
		return s.sendTransport(from.Addr(), to.Addr(), udp.ProtocolNumber, h, p)
	}
	// Most datagrams fit, and go to the device without another copy.
	encodeIP(buf[:ipHeader], src, dst, size)
	return s.inject(networkProtocol(to.Addr()), buf[:ipHeader+header.UDPMinimumSize], p)
}

// udpChecksum is the checksum of a datagram whose header is complete but for it.
func udpChecksum(h header.UDP, src, dst tcpip.Address, p []byte) uint16 {
	sum := header.PseudoHeaderChecksum(udp.ProtocolNumber, src, dst, uint16(len(h)+len(p)))
	sum = ^h.CalculateChecksum(checksum.Combine(sum, checksum.Checksum(p, 0)))
	if sum == 0 {
		return 0xffff // 0 says that there is none (RFC 768)
	}
	return sum
}
