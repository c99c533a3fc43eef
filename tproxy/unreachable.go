//go:build linux

package tproxy

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
)

// unreachable tells the program that a packet of its own was refused: by ICMP (RFC 792, RFC 4443 section 3.1), from the
// address that it was sent to, quoting as much of it as the kernel looks at; or by a RST.
type unreachable struct {
	v4, v6 syscall.RawConn // nil where there is none
}

func newUnreachable(files []*os.File) (*unreachable, error) {
	u := &unreachable{}
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		family := 0
		raw.Control(func(fd uintptr) { family, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) })
		switch family {
		case unix.AF_INET:
			u.v4 = raw
		case unix.AF_INET6:
			u.v6 = raw
		}
	}
	return u, nil
}

const (
	ttl         = 64
	ipv4Header  = 20
	ipv6Header  = 40
	udpHeader   = 8
	tcpHeader   = 20
	protoTCP    = unix.IPPROTO_TCP
	protoUDP    = unix.IPPROTO_UDP
	protoICMP   = unix.IPPROTO_ICMP
	protoICMPv6 = unix.IPPROTO_ICMPV6
)

// send refuses what src sent to dst, a datagram with a payload of so many octets. What cannot be sent is lost, as any
// packet may be.
func (u *unreachable) send(src, dst netip.AddrPort, payload int, why flow.Reason) {
	u.inject(src.Addr(), icmpError(src.Addr(), dst.Addr(), protoUDP, udpPorts(src, dst, payload), udpHeader+payload, why))
}

// refuseTCP refuses a SYN: by a RST, as nobody's port would, or by what the network would say. TimedOut is silence.
func (u *unreachable) refuseTCP(s heldSYN, why flow.Reason) {
	switch why {
	case flow.TimedOut:
	case flow.HostUnreachable, flow.NetUnreachable:
		u.inject(s.src.Addr(), icmpError(s.src.Addr(), s.dst.Addr(), protoTCP, tcpPorts(s), tcpHeader, why))
	default:
		u.inject(s.src.Addr(), tcpReset(s))
	}
}

// inject puts a packet with its IP header before the program's kernel.
func (u *unreachable) inject(to netip.Addr, packet []byte) (err error) {
	raw := u.v6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		raw, sa = u.v4, &unix.SockaddrInet4{Addr: to.As4()}
	}
	if raw == nil {
		return unix.EAFNOSUPPORT
	}
	if closed := raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, sa) }); closed != nil {
		return closed
	}
	return err
}

// code4 and code6 are the codes of type 3 and of type 1.
func code4(why flow.Reason) byte {
	switch why {
	case flow.HostUnreachable:
		return 1
	case flow.NetUnreachable:
		return 0
	}
	return 3 // port
}

func code6(why flow.Reason) byte {
	switch why {
	case flow.HostUnreachable:
		return 3 // address
	case flow.NetUnreachable:
		return 0 // no route
	}
	return 4 // port
}

// icmpError is the whole packet from dst to src that refuses a packet from src to dst of which quoted is the beginning
// and length the length, both without the IP header.
func icmpError(src, dst netip.Addr, protocol byte, quoted []byte, length int, why flow.Reason) []byte {
	if src.Is4() {
		message := append([]byte{3, code4(why), 0, 0, 0, 0, 0, 0}, append(ipv4(src, dst, protocol, length), quoted...)...)
		binary.BigEndian.PutUint16(message[2:], ^sum(message, 0))
		return append(ipv4(dst, src, protoICMP, len(message)), message...)
	}
	message := append([]byte{1, code6(why), 0, 0, 0, 0, 0, 0}, append(ipv6(src, dst, protocol, length), quoted...)...)
	binary.BigEndian.PutUint16(message[2:], ^transportSum(dst, src, protoICMPv6, message))
	return append(ipv6(dst, src, protoICMPv6, len(message)), message...)
}

// tcpReset is the whole packet that answers a SYN for a port where nobody listens (RFC 9293 section 3.5.2).
func tcpReset(s heldSYN) []byte {
	const ackRst, words = 0x14, 5
	b := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(b[0:], s.dst.Port())
	binary.BigEndian.PutUint16(b[2:], s.src.Port())
	binary.BigEndian.PutUint32(b[8:], s.seq+1)
	b[12], b[13] = words<<4, ackRst
	binary.BigEndian.PutUint16(b[16:], ^transportSum(s.dst.Addr(), s.src.Addr(), protoTCP, b))
	if s.src.Addr().Is4() {
		return append(ipv4(s.dst.Addr(), s.src.Addr(), protoTCP, len(b)), b...)
	}
	return append(ipv6(s.dst.Addr(), s.src.Addr(), protoTCP, len(b)), b...)
}

// transportSum is the sum over a transport header and payload with its pseudo header.
func transportSum(src, dst netip.Addr, protocol uint32, b []byte) uint16 {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	return sum(append(pseudo, b...), uint32(len(b))+protocol)
}

// tcpPorts is as much of a SYN's header as an ICMP error quotes.
func tcpPorts(s heldSYN) []byte {
	b := binary.BigEndian.AppendUint16(nil, s.src.Port())
	b = binary.BigEndian.AppendUint16(b, s.dst.Port())
	return binary.BigEndian.AppendUint32(b, s.seq)
}

func udpPorts(src, dst netip.AddrPort, payload int) []byte {
	b := make([]byte, 0, udpHeader)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(min(udpHeader+payload, 65535)))
	return append(b, 0, 0)
}

// ipv4 is a header without options (RFC 791).
func ipv4(src, dst netip.Addr, protocol byte, payload int) []byte {
	b := make([]byte, ipv4Header, ipv4Header+payload)
	b[0], b[8], b[9] = 0x45, ttl, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(min(ipv4Header+payload, 65535)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b, 0))
	return b
}

// ipv6 is a header without extensions (RFC 8200).
func ipv6(src, dst netip.Addr, protocol byte, payload int) []byte {
	b := make([]byte, ipv6Header, ipv6Header+payload)
	b[0], b[6], b[7] = 0x60, protocol, ttl
	binary.BigEndian.PutUint16(b[4:], uint16(min(payload, 65535)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}

// sum is the one's complement sum of RFC 1071, beginning with start.
func sum(b []byte, start uint32) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
