package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// check6 judges an IPv6 packet of size bytes, of which b is the beginning.
func (f *filter) check6(b []byte, size int) (verdict, string) {
	if len(b) < header.IPv6MinimumSize {
		return discard, dropRunt
	}
	ip := header.IPv6(b)
	end := int(ip.PayloadLength()) + header.IPv6MinimumSize
	if header.IPVersion(b) != header.IPv6Version || end > size {
		return discard, dropMalformedIP
	}
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	upper, why := walkHeaders6(ip.NextHeader(), b[header.IPv6MinimumSize:min(len(b), end)])
	icmp := upper.proto == uint8(header.ICMPv6ProtocolNumber) && !upper.rest
	switch {
	case why != "":
		return discard, why
	case icmp && isNDP(upper.bytes):
		return neighbour, "" // which answers none that has extension headers (RFC 6980 section 5)
	case header.IsV6MulticastAddress(dst):
		return discard, dropMulticast
	case src != f.addr6:
		return discard, dropSpoofed
	case dst == f.addr6:
		return discard, dropOwnAddress
	case dst == header.IPv6Any:
		return discard, dropUnspecified
	case icmp:
		return verdictOf(checkICMP6(upper.bytes, upper.fragment != nil))
	}
	return deliver, ""
}

// isNDP says whether an ICMPv6 message is one of neighbour discovery (RFC 4861 section 4): types 133 to 137.
func isNDP(icmp []byte) bool { return len(icmp) > 0 && icmp[0] >= 133 && icmp[0] <= 137 }

// upper6 is what stands behind the extension headers of an IPv6 packet.
type upper6 struct {
	proto    uint8
	bytes    []byte
	fragment header.IPv6Fragment // the fragment header, be it an atomic one (RFC 6946), or nil
	at       int                 // where the fragment header ends, in bytes behind the IPv6 header
	rest     bool                // the packet is a fragment other than the first: what proto says is not what bytes are
}

// walkHeaders6 follows the extension headers (RFC 8200 section 4) from the first one in b, which ends where the packet
// or what is known of it does, and returns what stands behind them, or why the packet is dropped. A first fragment has
// to hold the whole chain (RFC 7112), so that nothing that is refused here can be hidden in a second one.
func walkHeaders6(next uint8, b []byte) (u upper6, why string) {
	const hopByHop, routing, fragment, noNext, destination, experiment = 0, 43, 44, 59, 60, 253
	all := len(b)
	for {
		switch next {
		case routing:
			return u, dropRoutingHeader
		case noNext, experiment: // gVisor walks over the latter, so that anything could stand behind it
			return u, dropExtension
		case fragment:
			if u.fragment != nil {
				return u, dropNested
			}
		case hopByHop, destination:
		default:
			u.proto, u.bytes = next, b
			return u, ""
		}
		if len(b) < 8 {
			return u, dropLongChain
		}
		n := (int(b[1]) + 1) * 8
		if next == fragment {
			n = header.IPv6FragmentHeaderSize // its second byte is reserved
			u.fragment, u.at = header.IPv6Fragment(b[:n]), all-len(b)+n
			if u.fragment.FragmentOffset() != 0 {
				u.proto, u.bytes, u.rest = b[0], b[n:], true
				return u, ""
			}
		}
		if n > len(b) {
			return u, dropLongChain
		}
		if next != fragment && wantsDiscard(b[2:n]) {
			return u, dropExtension
		}
		next, b = b[0], b[n:]
	}
}

// wantsDiscard says whether the options of a hop-by-hop or destination options header (RFC 8200 section 4.2) have one
// that whoever does not know it has to throw the packet away for, in silence. gVisor does so too, but does not count.
func wantsDiscard(opts []byte) bool {
	const pad1, actionBits, discardSilently = 0, 0xc0, 0x40
	for len(opts) > 0 {
		if opts[0] == pad1 {
			opts = opts[1:]
			continue
		}
		if opts[0]&actionBits == discardSilently {
			return true
		}
		if len(opts) < 2 || int(opts[1])+2 > len(opts) {
			return false // broken, which gVisor counts
		}
		opts = opts[2+int(opts[1]):]
	}
	return false
}
