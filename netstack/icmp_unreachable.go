package netstack

import (
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// unreachable is why a packet of the sandbox cannot be delivered, in the terms that ICMPv4 and ICMPv6 share.
type unreachable uint8

const (
	unreachableNet unreachable = iota
	unreachableHost
	unreachablePort
	unreachableAdmin
)

// Errors are limited to unreachableRate a second with a burst of unreachableBurst, as RFC 4443 section 2.4 (f) wants it.
const (
	unreachableRate  = 1000
	unreachableBurst = 100
)

const (
	countUnreachableSent    = "icmp-unreachable-sent"
	countUnreachableLimited = "drop-icmp-unreachable-limited"
)

// quote4 is how much of the offending datagram's payload an ICMPv4 error carries (RFC 792); more than that is only of
// use to people.
const quote4 = 8

// unreachableLimiter is the token bucket of all ICMP errors of a Stack. The zero value is not ready.
type unreachableLimiter struct{ *rate.Limiter }

func newUnreachableLimiter() unreachableLimiter {
	return unreachableLimiter{rate.NewLimiter(unreachableRate, unreachableBurst)}
}

// allow takes one token.
func (l unreachableLimiter) allow() bool { return l.AllowN(time.Now(), 1) }

// sendUnreachable tells the sandbox that original, a packet it sent, cannot be delivered. original is at least the IP
// header and the first 8 bytes behind it; it is copied. It reports whether the error was sent: no error is sent beyond
// the rate limit, nor about a packet too short to quote.
func (s *Stack) sendUnreachable(why unreachable, original []byte) bool {
	return s.sendICMPError(original, func() []byte {
		if header.IPVersion(original) == header.IPv4Version {
			code := [...]header.ICMPv4Code{header.ICMPv4NetUnreachable, header.ICMPv4HostUnreachable,
				header.ICMPv4PortUnreachable, header.ICMPv4AdminProhibited}[why]
			return s.icmpError4(original, header.ICMPv4DstUnreachable, code, 0, why == unreachablePort)
		}
		code := [...]header.ICMPv6Code{header.ICMPv6NetworkUnreachable, header.ICMPv6AddressUnreachable,
			header.ICMPv6PortUnreachable, header.ICMPv6Prohibited}[why]
		return s.icmpError6(original, header.ICMPv6DstUnreachable, code, 0, why == unreachablePort)
	})
}

// sendICMPError sends what build makes of original, within the rate limit.
func (s *Stack) sendICMPError(original []byte, build func() []byte) bool {
	proto, ok := quotable(original)
	if !ok {
		return false
	}
	if !s.limiter.allow() {
		s.count(countUnreachableLimited)
		return false
	}
	if err := s.inject(proto, build()); err != nil {
		return false
	}
	s.count(countUnreachableSent)
	return true
}

// quotable says which protocol original is of, and whether there is enough of it to quote.
func quotable(original []byte) (tcpip.NetworkProtocolNumber, bool) {
	switch header.IPVersion(original) {
	case header.IPv4Version:
		return header.IPv4ProtocolNumber, len(original) >= header.IPv4MinimumSize &&
			len(original) >= int(header.IPv4(original).HeaderLength())
	case header.IPv6Version:
		return header.IPv6ProtocolNumber, len(original) >= header.IPv6MinimumSize
	}
	return 0, false
}

// icmpError4 builds an ICMPv4 error with its IPv4 header. It comes from the packet's destination, as a host's own errors
// do, when fromTarget is set, and from the gateway otherwise.
func (s *Stack) icmpError4(original []byte, t header.ICMPv4Type, code header.ICMPv4Code, mtu uint32, fromTarget bool) []byte {
	orig := header.IPv4(original)
	quoted := original[:min(len(original), int(orig.HeaderLength())+quote4)]
	src := tcpip.AddrFrom4(s.cfg.Gateway4.As4())
	if fromTarget {
		src = orig.DestinationAddress()
	}
	pkt := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize+len(quoted))
	header.IPv4(pkt).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(pkt)),
		TTL:         64,
		Protocol:    uint8(header.ICMPv4ProtocolNumber),
		SrcAddr:     src,
		DstAddr:     orig.SourceAddress(),
	})
	header.IPv4(pkt).SetChecksum(^header.IPv4(pkt).CalculateChecksum())
	icmp := header.ICMPv4(pkt[header.IPv4MinimumSize:])
	icmp.SetType(t)
	icmp.SetCode(code)
	icmp.SetMTU(uint16(mtu))
	copy(icmp[header.ICMPv4MinimumSize:], quoted)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return pkt
}

// icmpError6 is icmpError4 for ICMPv6, which quotes as much as fits into the minimum MTU (RFC 4443 section 2.4 (c)).
func (s *Stack) icmpError6(original []byte, t header.ICMPv6Type, code header.ICMPv6Code, mtu uint32, fromTarget bool) []byte {
	orig := header.IPv6(original)
	room := header.IPv6MinimumMTU - header.IPv6MinimumSize - header.ICMPv6MinimumSize
	quoted := original[:min(len(original), room)]
	src := tcpip.AddrFrom16(s.cfg.Gateway6.As16())
	if fromTarget {
		src = orig.DestinationAddress()
	}
	pkt := make([]byte, header.IPv6MinimumSize+header.ICMPv6MinimumSize+len(quoted))
	header.IPv6(pkt).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(pkt) - header.IPv6MinimumSize),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          64,
		SrcAddr:           src,
		DstAddr:           orig.SourceAddress(),
	})
	icmp := header.ICMPv6(pkt[header.IPv6MinimumSize:])
	icmp.SetType(t)
	icmp.SetCode(code)
	icmp.SetMTU(mtu)
	copy(icmp[header.ICMPv6MinimumSize:], quoted)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp, Src: src, Dst: orig.SourceAddress(),
	}))
	return pkt
}
