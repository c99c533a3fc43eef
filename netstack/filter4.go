package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

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
	b = b[:min(len(b), total)]
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	if isDHCPRequest(b, hlen, src, dst) {
		return deliver, ""
	}
	switch {
	case src != f.addr4:
		return discard, dropSpoofed
	case header.IsV4MulticastAddress(dst), dst == header.IPv4Broadcast, ip.TransportProtocol() == header.IGMPProtocolNumber:
		return discard, dropMulticast
	case dst == f.addr4:
		return discard, dropOwnAddress
	case dst == header.IPv4Any:
		return discard, dropUnspecified
	case ip.TransportProtocol() == header.ICMPv4ProtocolNumber && ip.FragmentOffset() == 0:
		return verdictOf(checkICMP4(b[hlen:], ip.More()))
	}
	return deliver, ""
}

// verdictOf is what becomes of a packet that is dropped for why, or delivered when that is "".
func verdictOf(why string) (verdict, string) {
	if why != "" {
		return discard, why
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
