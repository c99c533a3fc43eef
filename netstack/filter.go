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
	dropMulticast     = "drop-multicast"        // group and broadcast destinations, and group membership, never leave
	dropOwnAddress    = "drop-own-address"      // destination is the sandbox itself, which no kernel sends out
	dropUnspecified   = "drop-unspecified"      // destination is nobody; inside, that would have been the sandbox itself
	dropNoIPv6        = "drop-ipv6-off"         // IPv6 without an IPv6 address
	dropLongChain     = "drop-ipv6-long-header" // extension headers beyond maxHeaders or the payload (RFC 7112)
	dropExtension     = "drop-ipv6-extension"   // extension headers nobody has a use for: none behind it, experiments
	dropNested        = "drop-nested-fragment"  // a fragment header behind a fragment header
	dropICMPError     = "drop-icmp-error"       // ICMP errors in fragments, or about a path narrower than there are
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

// etherType is the protocol of a frame that passed the filter.
func etherType(frame []byte) tcpip.NetworkProtocolNumber {
	return tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:]))
}
