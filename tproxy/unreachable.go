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

// unreachable tells the program, by ICMP, that a datagram of its own was refused: the messages of RFC 792 and RFC 4443
// section 3.1, from the address that it was sent to, which quote as much of it as the kernel looks at.
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
	protoUDP    = unix.IPPROTO_UDP
	protoICMP   = unix.IPPROTO_ICMP
	protoICMPv6 = unix.IPPROTO_ICMPV6
)

// send refuses what src sent to dst, a datagram with a payload of so many octets. What cannot be sent is lost, as any
// packet may be.
func (u *unreachable) send(src, dst netip.AddrPort, payload int, why flow.Reason) {
	raw, packet := u.v6, unreachable6
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: src.Addr().As16()}
	if src.Addr().Is4() {
		raw, packet, to = u.v4, unreachable4, &unix.SockaddrInet4{Addr: src.Addr().As4()}
	}
	if raw != nil {
		raw.Control(func(fd uintptr) { unix.Sendto(int(fd), packet(src, dst, payload, why), unix.MSG_DONTWAIT, to) })
	}
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

// unreachable4 is the whole packet.
func unreachable4(src, dst netip.AddrPort, payload int, why flow.Reason) []byte {
	quoted := ipv4(src.Addr(), dst.Addr(), protoUDP, udpHeader+payload)
	quoted = append(quoted, udpPorts(src, dst, payload)...)
	message := append([]byte{3, code4(why), 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(message[2:], ^sum(message, 0))
	return append(ipv4(dst.Addr(), src.Addr(), protoICMP, len(message)), message...)
}

func unreachable6(src, dst netip.AddrPort, payload int, why flow.Reason) []byte {
	quoted := append(ipv6(src.Addr(), dst.Addr(), protoUDP, udpHeader+payload), udpPorts(src, dst, payload)...)
	message := append([]byte{1, code6(why), 0, 0, 0, 0, 0, 0}, quoted...)
	pseudo := uint32(len(message)) + protoICMPv6
	from, to := dst.Addr().As16(), src.Addr().As16()
	both := append(from[:], to[:]...)
	binary.BigEndian.PutUint16(message[2:], ^sum(append(both, message...), pseudo))
	return append(ipv6(dst.Addr(), src.Addr(), protoICMPv6, len(message)), message...)
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
