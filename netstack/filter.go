package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Why a frame of the sandbox goes no further. Each is the name of a counter.
const (
	dropRunt          = "drop-runt"             // shorter than its headers say
	dropVnetHdr       = "drop-vnet-header"      // impossible virtio-net header
	dropForeignMAC    = "drop-foreign-mac"      // not for the gateway's hardware address
	dropEtherType     = "drop-ethertype"        // neither IP nor ARP, VLAN tags included
	dropARP           = "drop-arp"              // ARP that asks for nobody we are
	dropNDP           = "drop-ndp"              // neighbour discovery that we do not take part in
	dropMalformedIP   = "drop-malformed-ip"     // version, lengths or options broken
	dropSourceRoute   = "drop-source-route"     // IPv4 LSRR or SSRR (RFC 7126 section 4.3, 4.4)
	dropRoutingHeader = "drop-routing-header"   // IPv6 routing header (RFC 5095)
	dropSpoofed       = "drop-spoofed-source"   // source is not the sandbox's address
	dropMulticast     = "drop-multicast"        // group and broadcast destinations never leave
	dropNoIPv6        = "drop-ipv6-off"         // IPv6 without an IPv6 address
	dropLongChain     = "drop-ipv6-long-header" // extension headers beyond maxHeaders bytes (RFC 7112)
)

// maxHeaders is how far into a frame the filter looks: Ethernet, IPv6 and 202 bytes of extension headers.
const maxHeaders = 256

// verdict is what becomes of a frame.
type verdict uint8

const (
	deliver   verdict = iota // to gVisor
	neighbour                // to the link's own ARP and NDP responder
	discard
)

// filter decides which frames of the sandbox are looked at any further. It holds no state: it knows the two addresses
// that are allowed to speak and the hardware address they have to speak to.
type filter struct {
	gateway    tcpip.LinkAddress
	addr4, gw4 tcpip.Address
	addr6, gw6 tcpip.Address
	ipv6       bool
}

func newFilter(cfg Config) filter {
	f := filter{
		gateway: tcpip.LinkAddress(cfg.GatewayMAC),
		addr4:   tcpip.AddrFrom4(cfg.Addr4.As4()),
		gw4:     tcpip.AddrFrom4(cfg.Gateway4.As4()),
		ipv6:    cfg.Addr6.IsValid(),
	}
	if f.ipv6 {
		f.addr6 = tcpip.AddrFrom16(cfg.Addr6.As16())
		f.gw6 = tcpip.AddrFrom16(cfg.Gateway6.As16())
	}
	return f
}

// check looks at the first bytes of a frame of size bytes and says what becomes of it, and why when it is discarded.
// first is the whole frame, or at least its first maxHeaders bytes. The source hardware address is not looked at: the
// descriptor is the identity.
func (f *filter) check(first []byte, size int) (verdict, string) {
	if len(first) < header.EthernetMinimumSize {
		return discard, dropRunt
	}
	eth := header.Ethernet(first)
	group := first[0]&1 != 0
	if !group && eth.DestinationAddress() != f.gateway {
		return discard, dropForeignMAC
	}
	first, size = first[header.EthernetMinimumSize:], size-header.EthernetMinimumSize
	switch eth.Type() {
	case header.ARPProtocolNumber:
		return neighbour, ""
	case header.IPv4ProtocolNumber:
		return f.check4(first, size)
	case header.IPv6ProtocolNumber:
		if !f.ipv6 {
			return discard, dropNoIPv6
		}
		return f.check6(first, size)
	}
	return discard, dropEtherType
}

// check4 judges an IPv4 packet of size bytes, of which b is the beginning.
func (f *filter) check4(b []byte, size int) (verdict, string) {
	if len(b) < header.IPv4MinimumSize {
		return discard, dropRunt
	}
	ip := header.IPv4(b)
	hlen, total := int(ip.HeaderLength()), int(ip.TotalLength())
	if header.IPVersion(b) != header.IPv4Version || hlen < header.IPv4MinimumSize || hlen > len(b) || total < hlen || total > size {
		return discard, dropMalformedIP
	}
	if why := checkOptions4(b[header.IPv4MinimumSize:hlen]); why != "" {
		return discard, why
	}
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	if isDHCPRequest(b[:min(len(b), total)], hlen, src, dst) {
		return deliver, ""
	}
	switch {
	case src != f.addr4:
		return discard, dropSpoofed
	case header.IsV4MulticastAddress(dst), dst == header.IPv4Broadcast:
		return discard, dropMulticast
	}
	return deliver, ""
}

// checkOptions4 walks the options of an IPv4 header (RFC 791 section 3.1) and returns why the packet is dropped, or "".
func checkOptions4(opts []byte) string {
	const endOfList, noOperation, lsrr, ssrr = 0, 1, 131, 137
	for len(opts) > 0 {
		switch opts[0] {
		case endOfList:
			return ""
		case noOperation:
			opts = opts[1:]
			continue
		case lsrr, ssrr:
			return dropSourceRoute
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return dropMalformedIP
		}
		opts = opts[opts[1]:]
	}
	return ""
}

// isDHCPRequest says whether b is a client's DHCP message, the one packet that has no source address and goes to
// everybody (RFC 2131 section 4.1). It is for the gateway alone.
func isDHCPRequest(b []byte, hlen int, src, dst tcpip.Address) bool {
	const serverPort, clientPort = 67, 68
	ip := header.IPv4(b)
	if src != header.IPv4Any || dst != header.IPv4Broadcast || ip.Protocol() != uint8(header.UDPProtocolNumber) {
		return false
	}
	if ip.More() || ip.FragmentOffset() != 0 || len(b) < hlen+header.UDPMinimumSize {
		return false
	}
	udp := header.UDP(b[hlen:])
	return udp.SourcePort() == clientPort && udp.DestinationPort() == serverPort
}

// check6 judges an IPv6 packet of size bytes, of which b is the beginning.
func (f *filter) check6(b []byte, size int) (verdict, string) {
	if len(b) < header.IPv6MinimumSize {
		return discard, dropRunt
	}
	ip := header.IPv6(b)
	if header.IPVersion(b) != header.IPv6Version || int(ip.PayloadLength())+header.IPv6MinimumSize > size {
		return discard, dropMalformedIP
	}
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	proto, rest, why := walkHeaders6(ip.NextHeader(), b[header.IPv6MinimumSize:])
	switch {
	case why != "":
		return discard, why
	case proto == uint8(header.ICMPv6ProtocolNumber) && isNDP(rest):
		return neighbour, ""
	case header.IsV6MulticastAddress(dst):
		return discard, dropMulticast
	case src != f.addr6:
		return discard, dropSpoofed
	}
	return deliver, ""
}

// isNDP says whether an ICMPv6 message is one of neighbour discovery (RFC 4861 section 4): types 133 to 137.
func isNDP(icmp []byte) bool { return len(icmp) > 0 && icmp[0] >= 133 && icmp[0] <= 137 }

// walkHeaders6 follows the extension headers (RFC 8200 section 4) from the first one in b, and returns the protocol
// behind them and its bytes, or why the packet is dropped. It stops at a fragment header: what is behind it is judged
// once it is whole, by the stack.
func walkHeaders6(next uint8, b []byte) (proto uint8, rest []byte, why string) {
	const hopByHop, routing, fragment, noNext, destination, mobility, hip, shim6 = 0, 43, 44, 59, 60, 135, 139, 140
	for {
		switch next {
		case routing:
			return 0, nil, dropRoutingHeader
		case fragment:
			return next, b, ""
		case hopByHop, destination, mobility, hip, shim6:
		default:
			return next, b, ""
		}
		if len(b) < 8 {
			return 0, nil, dropLongChain
		}
		n := (int(b[1]) + 1) * 8
		if n > len(b) {
			return 0, nil, dropLongChain
		}
		next, b = b[0], b[n:]
	}
}

// etherType is the protocol of a frame that passed the filter.
func etherType(frame []byte) tcpip.NetworkProtocolNumber {
	return tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:]))
}
