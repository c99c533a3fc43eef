package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// answerNeighbour replies to an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 section 4.3) for the
// gateway's address and counts everything else. The sandbox normally has permanent neighbour entries and never asks.
func (e *endpoint) answerNeighbour(frame []byte) {
	body := frame[header.EthernetMinimumSize:]
	if etherType(frame) == header.ARPProtocolNumber {
		if !e.answerARP(body) {
			e.counters.add(dropARP, 1)
		}
		return
	}
	if !e.answerNDP(body) {
		e.counters.add(dropNDP, 1)
	}
}

// answerARP replies to a request for the gateway's IPv4 address and reports whether it was one.
func (e *endpoint) answerARP(body []byte) bool {
	req := header.ARP(body)
	if len(body) < header.ARPSize || !req.IsValid() || req.Op() != header.ARPRequest {
		return false
	}
	if tcpip.AddrFrom4Slice(req.ProtocolAddressTarget()) != e.filter.gw4 ||
		tcpip.AddrFrom4Slice(req.ProtocolAddressSender()) != e.filter.addr4 {
		return false
	}
	reply := header.ARP(make([]byte, header.ARPSize))
	reply.SetIPv4OverEthernet()
	reply.SetOp(header.ARPReply)
	copy(reply.HardwareAddressSender(), e.gateway)
	copy(reply.ProtocolAddressSender(), e.filter.gw4.AsSlice())
	copy(reply.HardwareAddressTarget(), e.guest)
	copy(reply.ProtocolAddressTarget(), e.filter.addr4.AsSlice())
	return e.writeIP(header.ARPProtocolNumber, reply) == nil
}

// ndpHopLimit is what every neighbour discovery packet must carry (RFC 4861 section 7.1.1): it was not forwarded.
const ndpHopLimit = 255

// answerNDP replies to a solicitation for the gateway's IPv6 address and reports whether it was one. The asker may use
// its link-local address here, and nowhere else.
func (e *endpoint) answerNDP(body []byte) bool {
	ip := header.IPv6(body)
	const want = header.IPv6MinimumSize + header.ICMPv6NeighborSolicitMinimumSize
	if len(body) < want || ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) || ip.HopLimit() != ndpHopLimit {
		return false
	}
	icmp := header.ICMPv6(ip[header.IPv6MinimumSize:])
	src := ip.SourceAddress()
	if icmp.Type() != header.ICMPv6NeighborSolicit || icmp.Code() != 0 {
		return false
	}
	if src != e.filter.addr6 && !header.IsV6LinkLocalUnicastAddress(src) {
		return false
	}
	if header.NDPNeighborSolicit(icmp.MessageBody()).TargetAddress() != e.filter.gw6 {
		return false
	}
	return e.writeIP(header.IPv6ProtocolNumber, e.advertisement(src)) == nil
}

// advertisement is the gateway's neighbour advertisement to dst, with its hardware address as an option.
func (e *endpoint) advertisement(dst tcpip.Address) []byte {
	opts := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(e.gateway)}
	size := header.ICMPv6NeighborAdvertMinimumSize + opts.Length()
	pkt := make([]byte, header.IPv6MinimumSize+size)
	header.IPv6(pkt).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(size),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          ndpHopLimit,
		SrcAddr:           e.filter.gw6,
		DstAddr:           dst,
	})
	icmp := header.ICMPv6(pkt[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetRouterFlag(true)
	na.SetSolicitedFlag(true)
	na.SetOverrideFlag(true)
	na.SetTargetAddress(e.filter.gw6)
	na.Options().Serialize(opts)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp, Src: e.filter.gw6, Dst: dst,
	}))
	return pkt
}
