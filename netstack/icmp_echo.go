package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// errNotEchoReply refuses to carry anything but echo replies into the sandbox.
var errNotEchoReply = errors.New("not an echo reply")

// echoIdent is the identifier of an echo message of at least 8 bytes, in either version.
func echoIdent(m []byte) uint16 { return binary.BigEndian.Uint16(m[4:]) }

// sendEcho sends an echo reply into the sandbox, with the identifier of the flow and a new checksum: upstream the host's
// kernel had put its own.
func (s *Stack) sendEcho(key datagramKey, reply []byte) error {
	if len(reply) > maxEcho {
		return fmt.Errorf("send echo reply: %w", syscall.EMSGSIZE)
	}
	v4 := key.src.Addr().Is4()
	if !isEchoReply(reply, v4) {
		return fmt.Errorf("send echo reply: %w", errNotEchoReply)
	}
	m := slices.Clone(reply)
	binary.BigEndian.PutUint16(m[4:], key.src.Port())
	hdr, payload := m[:header.ICMPv4MinimumSize], m[header.ICMPv4MinimumSize:]
	if v4 {
		h := header.ICMPv4(m)
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(m, 0))
		return s.sendTransport(key.dst.Addr(), key.src.Addr(), header.ICMPv4ProtocolNumber, hdr, payload)
	}
	h := header.ICMPv6(m)
	h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: h,
		Src:    tcpip.AddrFrom16(key.dst.Addr().As16()),
		Dst:    tcpip.AddrFrom16(key.src.Addr().As16()),
	}))
	return s.sendTransport(key.dst.Addr(), key.src.Addr(), header.ICMPv6ProtocolNumber, hdr, payload)
}

func isEchoReply(m []byte, v4 bool) bool {
	switch {
	case len(m) < header.ICMPv4MinimumSize || m[1] != 0:
		return false
	case v4:
		return header.ICMPv4(m).Type() == header.ICMPv4EchoReply
	}
	return header.ICMPv6(m).Type() == header.ICMPv6EchoReply
}
