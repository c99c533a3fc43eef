package netstack

import (
	"bytes"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const ethernet4, ethernet6 = header.IPv4ProtocolNumber, header.IPv6ProtocolNumber

// to4 is a packet of the guest to 203.0.113.7 in its frame.
func to4(proto tcpip.TransportProtocolNumber, payload []byte) []byte {
	return l2(ethernet4, packet4(guest4.String(), "203.0.113.7", proto, nil, payload))
}

// linkRows are frames that are wrong before their network header begins.
func linkRows() []hostileRow {
	syn := tcpFrame(flagSYN, nil, nil)
	multicast := append([]byte{0x01, 0, 0x5e, 0, 0, 0xfb}, syn[6:]...)
	return []hostileRow{
		{name: "runt", frames: one(syn[:13]), counter: dropRunt},
		{name: "header only", frames: one(syn[:14]), counter: dropRunt},
		{name: "jumbo, padded", frames: one(append(bytes.Clone(syn), make([]byte, 60000)...)), flows: []string{"tcp 203.0.113.7:80"}, answers: []string{"tcp RA"}},
		{name: "jumbo datagram", frames: one(to4(17, datagram(9, 9, 60000))), flows: []string{"udp 203.0.113.7:9"}, answers: []string{"icmp 3/3"}},
		{name: "foreign MAC", frames: one(patched(syn, 5, 0x99)), counter: dropForeignMAC},
		{name: "the guest's own MAC", frames: one(append(bytes.Clone(guestMAC), syn[6:]...)), counter: dropForeignMAC},
		{name: "spoofed source MAC", frames: one(patched(syn, 11, 0x99)), flows: []string{"tcp 203.0.113.7:80"}, answers: []string{"tcp RA"}},
		{name: "multicast MAC, unicast IP", frames: one(multicast), flows: []string{"tcp 203.0.113.7:80"}, answers: []string{"tcp RA"}},
		{name: "VLAN tag", frames: one(l2(0x8100, append([]byte{0, 1, 8, 0}, syn[14:]...))), counter: dropEtherType},
		{name: "QinQ", frames: one(l2(0x88a8, append([]byte{0, 1, 0x81, 0, 0, 2, 8, 0}, syn[14:]...))), counter: dropEtherType},
		{name: "LLC", frames: one(l2(38, append([]byte{0x42, 0x42, 3}, make([]byte, 35)...))), counter: dropEtherType},
		{name: "SNAP", frames: one(l2(100, append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, syn[14:]...))), counter: dropEtherType},
		{name: "EAPOL", frames: one(l2(0x888e, make([]byte, 40))), counter: dropEtherType},
		{name: "PPPoE", frames: one(l2(0x8864, append([]byte{0x11, 0, 0, 1, 0, 40, 0, 0x21}, syn[14:]...))), counter: dropEtherType},
		{name: "MPLS", frames: one(l2(0x8847, append([]byte{0, 1, 1, 64}, syn[14:]...))), counter: dropEtherType},
		{name: "IPv6 called IPv4", frames: one(l2(ethernet4, packet6("fd77::2", "2001:db8::7", 6, make([]byte, 20)))), counter: dropMalformedIP},
	}
}

// arp is an ARP message in its frame.
func arp(op header.ARPOp, senderMAC net.HardwareAddr, sender, target string) []byte {
	a := header.ARP(make([]byte, header.ARPSize))
	a.SetIPv4OverEthernet()
	a.SetOp(op)
	copy(a.HardwareAddressSender(), senderMAC)
	copy(a.ProtocolAddressSender(), netip.MustParseAddr(sender).AsSlice())
	copy(a.ProtocolAddressTarget(), netip.MustParseAddr(target).AsSlice())
	return l2(header.ARPProtocolNumber, a)
}

// arpRows: the guest has one neighbour, and the door believes nobody about who is where. The probe at the end of each
// attempt to move the guest is answered to the guest's own hardware address, as [wire] checks of every frame.
func arpRows() []hostileRow {
	evil := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	probe := tcpFrame(flagSYN, nil, nil)
	moved := func(frame []byte) hostileRow {
		return hostileRow{frames: [][]byte{frame, probe}, counter: dropARP, flows: []string{"tcp 203.0.113.7:80"}, answers: []string{"tcp RA"}}
	}
	rows := []hostileRow{
		{name: "request for the gateway", frames: one(arp(header.ARPRequest, guestMAC, "10.77.0.2", "10.77.0.1")), answers: []string{"arp"}},
		{name: "request from a lied hardware address", frames: one(arp(header.ARPRequest, evil, "10.77.0.2", "10.77.0.1")), answers: []string{"arp"}},
		{name: "request for another address", frames: one(arp(header.ARPRequest, guestMAC, "10.77.0.2", "10.77.0.9")), counter: dropARP},
		{name: "request for the Internet", frames: one(arp(header.ARPRequest, guestMAC, "10.77.0.2", "203.0.113.7")), counter: dropARP},
		{name: "request of another sender", frames: one(arp(header.ARPRequest, guestMAC, "10.77.0.3", "10.77.0.1")), counter: dropARP},
		{name: "probe", frames: one(arp(header.ARPRequest, guestMAC, "0.0.0.0", "10.77.0.2")), counter: dropARP},
		{name: "of Token Ring", frames: one(patched(arp(header.ARPRequest, guestMAC, "10.77.0.2", "10.77.0.1"), 15, 6)), counter: dropARP},
		{name: "cut", frames: one(arp(header.ARPRequest, guestMAC, "10.77.0.2", "10.77.0.1")[:30]), counter: dropARP},
		{name: "reverse", frames: one(arp(3, guestMAC, "10.77.0.2", "10.77.0.1")), counter: dropARP},
	}
	for name, frame := range map[string][]byte{
		"reply that moves the guest":        arp(header.ARPReply, evil, "10.77.0.2", "10.77.0.1"),
		"reply that claims the gateway":     arp(header.ARPReply, evil, "10.77.0.1", "10.77.0.2"),
		"gratuitous reply":                  arp(header.ARPReply, evil, "10.77.0.2", "10.77.0.2"),
		"gratuitous request":                arp(header.ARPRequest, evil, "10.77.0.2", "10.77.0.2"),
		"request that claims the gateway":   arp(header.ARPRequest, evil, "10.77.0.1", "10.77.0.2"),
		"reply that claims an upstream":     arp(header.ARPReply, evil, "203.0.113.7", "10.77.0.1"),
		"reply that claims other sandboxes": arp(header.ARPReply, guestMAC, "10.77.0.6", "10.77.0.1"),
	} {
		r := moved(frame)
		r.name = name
		rows = append(rows, r)
	}
	return rows
}

// ndp is an ICMPv6 message with hop limit 255 in its frame.
func ndp(src, dst string, typ uint8, rest uint32, body []byte) []byte {
	return l2(ethernet6, packet6(src, dst, uint8(header.ICMPv6ProtocolNumber), icmp6(src, dst, typ, 0, rest, body)))
}

// ndpRows are the same for IPv6, with the things that it has on top: routers, prefixes, redirects.
func ndpRows() []hostileRow {
	a := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	evil := []byte{1, 1, 2, 0, 0, 0, 0, 0x66}       // source link-layer address
	evilTarget := []byte{2, 1, 2, 0, 0, 0, 0, 0x66} // target link-layer address
	prefix := append([]byte{3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, a("2001:db8:66::")...)
	mtu := []byte{5, 1, 0, 0, 0, 0, 5, 0}
	advert := bytes.Join([][]byte{make([]byte, 8), evil, mtu, prefix}, nil)
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	probe := l2(ethernet6, packet6("fd77::2", "2001:db8::7", 6, segmentTo("2001:db8::7", flagSYN, nil, nil)))
	const allNodes, allRouters, na, flags = "ff02::1", "ff02::2", 136, 0xe0000000
	const icmp, gateway, snm = uint8(header.ICMPv6ProtocolNumber), "fd77::1", "ff02::1:ff00:1"
	spoof := func(name string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: [][]byte{frame, probe}, counter: dropNDP, flows: []string{"tcp [2001:db8::7]:80"}, answers: []string{"tcp RA"}}
	}
	hidden := icmp6("fd77::2", gateway, 135, 0, 0, join(a(gateway), evil))
	return []hostileRow{
		{name: "solicitation for the gateway", frames: one(ndp("fd77::2", snm, 135, 0, join(a(gateway), evil))), answers: []string{"icmp 136/0"}},
		{name: "solicitation for another", frames: one(ndp("fd77::2", snm, 135, 0, join(a("fd77::9"), evil))), counter: dropNDP},
		{name: "solicitation, code 1", frames: one(patched(ndp("fd77::2", snm, 135, 0, join(a(gateway), evil)), 55, 1)), counter: dropNDP},
		{name: "duplicate detection of the gateway", frames: one(ndp("::", snm, 135, 0, a(gateway))), counter: dropNDP},
		spoof("advertisement that moves the guest", ndp("fd77::2", gateway, na, flags, join(a("fd77::2"), evilTarget))),
		spoof("advertisement that moves the guest, to all", ndp("fd77::2", allNodes, na, flags, join(a("fd77::2"), evilTarget))),
		spoof("advertisement that claims the gateway", ndp(gateway, "fd77::2", na, flags, join(a(gateway), evilTarget))),
		spoof("advertisement that claims an upstream", ndp("fd77::2", gateway, na, flags, join(a("2001:db8::7"), evilTarget))),
		spoof("router advertisement", ndp("fe80::66", allNodes, 134, 0x40000708, advert)),
		spoof("router advertisement to the gateway", ndp("fe80::66", gateway, 134, 0x40000708, advert)),
		spoof("router advertisement from the guest", ndp("fd77::2", allNodes, 134, 0x40000708, advert)),
		spoof("router solicitation", ndp("fd77::2", allRouters, 133, 0, evil)),
		spoof("redirect", ndp("fe80::66", gateway, 137, 0, join(a("2001:db8::66"), a("2001:db8::7"), evilTarget))),
		{name: "advertisement behind a fragment header", frames: one(frag6(icmp, 1, 0, false, icmp6("fd77::2", "2001:db8::7", na, 0, flags, a("fd77::2")))), counter: dropNDP},
		{name: "advertisement in fragments", frames: [][]byte{
			frag6(icmp, 1, 0, true, icmp6("fd77::2", "2001:db8::7", na, 0, flags, join(a("fd77::2"), evilTarget))[:24]), frag6(icmp, 1, 24, false, make([]byte, 8)),
		}, counter: dropNDP},
		{name: "solicitation behind an experiment header", frames: one(l2(ethernet6, packet6("fd77::2", gateway, 253, ext6(icmp, 1, hidden)))), counter: dropExtension},
		{name: "solicitation behind options", frames: one(l2(ethernet6, packet6("fd77::2", gateway, 60, ext6(icmp, 1, hidden)))), counter: dropNDP},
		{name: "MLD query", frames: one(l2(ethernet6, packet6("fe80::66", allNodes, 0, append([]byte{icmp, 0, 5, 2, 0, 0, 1, 0}, icmp6("fe80::66", allNodes, 130, 0, 0, a("::"))...)))), counter: dropMulticast},
		{name: "MLD query to the gateway", frames: one(ndp("fd77::2", gateway, 130, 0, a("::"))), counter: countICMPType},
		{name: "MLDv2 report", frames: one(ndp("fd77::2", "ff02::16", 143, 1, append([]byte{4, 0, 0, 0}, a("ff02::fb")...))), counter: dropMulticast},
		{name: "DHCPv6 solicitation", frames: one(l2(ethernet6, packet6("fe80::2", "ff02::1:2", 17, withSum("fe80::2", "ff02::1:2", 17, datagram(546, 547, 20), 6)))), counter: dropMulticast},
		{name: "DHCPv6 advertisement", frames: one(l2(ethernet6, packet6("fe80::2", gateway, 17, withSum("fe80::2", gateway, 17, datagram(547, 546, 20), 6)))), counter: dropSpoofed},
	}
}

// vnetRows are headers that lie about the frame behind them.
func vnetRows() []hostileRow {
	datagrams := func(n, size int) []byte { return to4(17, datagram(9, 9, n*size)) }
	udp, tcpSYN := datagrams(1, 100), tcpFrame(flagSYN, nil, make([]byte, 900))
	bad := func(name string, h vnetHdr, frame []byte) hostileRow {
		return hostileRow{name: name, hdr: h, frames: one(frame), counter: dropVnetHdr, link: vnetLink}
	}
	uso := func(name string, size uint16, frame []byte) hostileRow {
		return hostileRow{name: name, hdr: vnetHdr{gsoType: vnetGSOUDPL4, gsoSize: size}, frames: one(frame), counter: dropUSO, link: vnetLink}
	}
	fine := func(name string, h vnetHdr) hostileRow {
		return hostileRow{name: name, hdr: h, frames: one(tcpSYN), flows: []string{"tcp 203.0.113.7:80"}, answers: []string{"tcp RA"}, link: vnetLink}
	}
	return []hostileRow{
		bad("checksum beyond the frame", vnetHdr{flags: vnetNeedsCsum, csumStart: 1000, csumOffset: 6}, udp),
		bad("checksum offset overflows", vnetHdr{flags: vnetNeedsCsum, csumStart: 0xffff, csumOffset: 0xffff}, udp),
		bad("checksum ends one beyond", vnetHdr{flags: vnetNeedsCsum, csumStart: uint16(len(udp)) - 1}, udp),
		bad("TSO of size 0", vnetHdr{gsoType: vnetGSOTCPv4}, tcpSYN),
		bad("TSO6 of size 0", vnetHdr{gsoType: vnetGSOTCPv6}, tcpSYN),
		bad("USO of size 0", vnetHdr{gsoType: vnetGSOUDPL4}, udp),
		bad("headers beyond the frame", vnetHdr{gsoType: vnetGSOTCPv4, gsoSize: 100, hdrLen: 0xffff}, tcpSYN),
		bad("UFO", vnetHdr{gsoType: 3, gsoSize: 100}, udp),
		bad("unknown type", vnetHdr{gsoType: 77, gsoSize: 100}, udp),
		bad("nothing behind it", vnetHdr{flags: vnetNeedsCsum}, nil),
		uso("USO of a TCP segment", 100, tcpSYN),
		uso("USO of a fragment", 100, frag4(17, 1, 0, true, datagram(9, 9, 800))),
		uso("USO of a later fragment", 100, frag4(17, 1, 800, false, datagram(9, 9, 800))),
		uso("USO into 129 datagrams", 1, datagrams(129, 1)),
		uso("USO into 60000 datagrams", 1, datagrams(60000, 1)),
		uso("USO behind options", 100, l2(ethernet6, packet6("fd77::2", "2001:db8::7", 60, ext6(17, 1, udp6("2001:db8::7", 9, 800))))),
		uso("USO of IPv6 fragments", 100, frag6(17, 1, 0, true, udp6("2001:db8::7", 9, 800))),
		{name: "USO", hdr: vnetHdr{gsoType: vnetGSOUDPL4, gsoSize: 100}, frames: one(datagrams(128, 100)), repeats: true, flows: []string{"udp 203.0.113.7:9"}, answers: []string{"icmp 3/3"}, link: vnetLink},
		{name: "USO larger than the frame", hdr: vnetHdr{gsoType: vnetGSOUDPL4, gsoSize: 0xffff}, frames: one(udp), flows: []string{"udp 203.0.113.7:9"}, answers: []string{"icmp 3/3"}, link: vnetLink},
		fine("TSO of a small segment", vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOTCPv4, gsoSize: 60000, hdrLen: 54, csumStart: 34, csumOffset: 16}),
		fine("TSO6 of an IPv4 segment", vnetHdr{gsoType: vnetGSOTCPv6, gsoSize: 1}),
		fine("TSO of size 1 with ECN", vnetHdr{gsoType: vnetGSOTCPv4 | vnetGSOECN, gsoSize: 1}),
		fine("checksum in the Ethernet header", vnetHdr{flags: vnetNeedsCsum}),
	}
}
