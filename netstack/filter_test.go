package netstack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// l2 is an Ethernet frame to the gateway of the given type.
func l2(proto tcpip.NetworkProtocolNumber, body []byte) []byte {
	b := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(body))
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guestMAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: proto,
	})
	return append(b, body...)
}

// packet4 is an IPv4 packet with options.
func packet4(src, dst string, proto tcpip.TransportProtocolNumber, options, payload []byte) []byte {
	hlen := header.IPv4MinimumSize + len(options)
	b := make([]byte, hlen+len(payload))
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(proto),
		SrcAddr: tcpip.AddrFrom4(netip.MustParseAddr(src).As4()), DstAddr: tcpip.AddrFrom4(netip.MustParseAddr(dst).As4()),
	})
	h.SetHeaderLength(uint8(hlen))
	copy(b[header.IPv4MinimumSize:], options)
	copy(b[hlen:], payload)
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return b
}

// packet6 is an IPv6 packet.
func packet6(src, dst string, next uint8, payload []byte) []byte {
	b := make([]byte, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(payload)), TransportProtocol: tcpip.TransportProtocolNumber(next), HopLimit: 255,
		SrcAddr: tcpip.AddrFrom16(netip.MustParseAddr(src).As16()), DstAddr: tcpip.AddrFrom16(netip.MustParseAddr(dst).As16()),
	})
	copy(b[header.IPv6MinimumSize:], payload)
	return b
}

// datagram is a UDP header with n bytes behind it.
func datagram(sport, dport uint16, n int) []byte {
	b := make([]byte, header.UDPMinimumSize+n)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: sport, DstPort: dport, Length: uint16(len(b))})
	return b
}

// patched is b with the byte at i set to v.
func patched(b []byte, i int, v byte) []byte {
	b = bytes.Clone(b)
	b[i] = v
	return b
}

// filterCases are frames and what becomes of them: "" is delivered, "neighbour" answered by the link.
func filterCases() []struct {
	name  string
	frame []byte
	want  string
} {
	const tcp, udpProto, icmp6 = header.TCPProtocolNumber, header.UDPProtocolNumber, uint8(header.ICMPv6ProtocolNumber)
	v4, v6, arp := header.IPv4ProtocolNumber, header.IPv6ProtocolNumber, header.ARPProtocolNumber
	good4 := packet4("10.77.0.2", "203.0.113.7", tcp, nil, make([]byte, 20))
	good6 := packet6("fd77::2", "2001:db8::7", uint8(tcp), make([]byte, 20))
	ext := func(next uint8, words int, rest []byte) []byte {
		return append(append([]byte{next, byte(words - 1)}, make([]byte, words*8-2)...), rest...)
	}
	return []struct {
		name  string
		frame []byte
		want  string
	}{
		{"v4", l2(v4, good4), ""},
		{"v6", l2(v6, good6), ""},
		{"v4 to the gateway", l2(v4, packet4("10.77.0.2", "10.77.0.1", udpProto, nil, datagram(1, 53, 0))), ""},
		{"empty", nil, dropRunt},
		{"half a MAC", []byte{2, 0x77}, dropRunt},
		{"foreign MAC", patched(l2(v4, good4), 5, 0x99), dropForeignMAC},
		{"broadcast MAC, unicast IP", patched(l2(v4, good4), 0, 0xff), ""},
		{"VLAN tag", l2(0x8100, append([]byte{0, 1, 8, 0}, good4...)), dropEtherType},
		{"LLDP", l2(0x88cc, make([]byte, 40)), dropEtherType},
		{"802.3 length", l2(40, make([]byte, 40)), dropEtherType},
		{"ARP", l2(arp, make([]byte, 28)), "neighbour"},
		{"v4 short", l2(v4, good4[:19]), dropRunt},
		{"v4 says v6", l2(v4, patched(good4, 0, 0x65)), dropMalformedIP},
		{"IHL 4", l2(v4, patched(good4, 0, 0x44)), dropMalformedIP},
		{"IHL 15", l2(v4, patched(good4, 0, 0x4f)), dropMalformedIP},
		{"total length beyond the frame", l2(v4, patched(good4, 2, 0xff)), dropMalformedIP},
		{"total length below the header", l2(v4, patched(good4, 3, 19)), dropMalformedIP},
		{"padding behind the packet", l2(v4, append(bytes.Clone(good4), make([]byte, 30)...)), ""},
		{"record route", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{7, 7, 4, 0, 0, 0, 0, 0}, nil)), ""},
		{"LSRR", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{131, 7, 4, 10, 0, 0, 1, 0}, nil)), dropSourceRoute},
		{"SSRR behind NOPs", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{1, 1, 1, 1, 137, 3, 4, 0}, nil)), dropSourceRoute},
		{"LSRR behind end of list", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{0, 131, 3, 4}, nil)), ""},
		{"option of length 0", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{7, 0, 0, 0}, nil)), dropMalformedIP},
		{"option beyond the header", l2(v4, packet4("10.77.0.2", "203.0.113.7", tcp, []byte{7, 9, 4, 0}, nil)), dropMalformedIP},
		{"spoofed v4", l2(v4, packet4("10.77.0.3", "203.0.113.7", tcp, nil, make([]byte, 20))), dropSpoofed},
		{"from the gateway", l2(v4, packet4("10.77.0.1", "203.0.113.7", tcp, nil, make([]byte, 20))), dropSpoofed},
		{"from loopback", l2(v4, packet4("127.0.0.1", "203.0.113.7", tcp, nil, make([]byte, 20))), dropSpoofed},
		{"from nowhere", l2(v4, packet4("0.0.0.0", "203.0.113.7", tcp, nil, make([]byte, 20))), dropSpoofed},
		{"multicast v4", l2(v4, packet4("10.77.0.2", "224.0.0.251", udpProto, nil, datagram(5353, 5353, 0))), dropMulticast},
		{"broadcast", l2(v4, packet4("10.77.0.2", "255.255.255.255", udpProto, nil, datagram(9, 9, 0))), dropMulticast},
		{"DHCP", l2(v4, packet4("0.0.0.0", "255.255.255.255", udpProto, nil, datagram(68, 67, 10))), ""},
		{"DHCP, other port", l2(v4, packet4("0.0.0.0", "255.255.255.255", udpProto, nil, datagram(68, 69, 10))), dropSpoofed},
		{"DHCP, cut", l2(v4, packet4("0.0.0.0", "255.255.255.255", udpProto, nil, datagram(68, 67, 10)[:7])), dropSpoofed},
		{"DHCP by TCP", l2(v4, packet4("0.0.0.0", "255.255.255.255", tcp, nil, datagram(68, 67, 10))), dropSpoofed},
		{"v6 short", l2(v6, good6[:39]), dropRunt},
		{"v6 says v4", l2(v6, patched(good6, 0, 0x45)), dropMalformedIP},
		{"v6 payload beyond the frame", l2(v6, patched(good6, 5, 21)), dropMalformedIP},
		{"spoofed v6", l2(v6, packet6("fd77::3", "2001:db8::7", uint8(tcp), make([]byte, 20))), dropSpoofed},
		{"link-local v6", l2(v6, packet6("fe80::1", "2001:db8::7", uint8(tcp), make([]byte, 20))), dropSpoofed},
		{"link-local ping", l2(v6, packet6("fe80::1", "fd77::1", icmp6, make([]byte, 20))), dropSpoofed},
		{"multicast v6", l2(v6, packet6("fd77::2", "ff02::fb", uint8(udpProto), datagram(5353, 5353, 0))), dropMulticast},
		{"MLD report", l2(v6, packet6("fe80::1", "ff02::16", 0, ext(icmp6, 1, []byte{143, 0, 0, 0}))), dropMulticast},
		{"router solicitation", l2(v6, packet6("fe80::1", "ff02::2", icmp6, []byte{133, 0, 0, 0, 0, 0, 0, 0})), "neighbour"},
		{"RH0", l2(v6, packet6("fd77::2", "2001:db8::7", 43, ext(uint8(tcp), 1, make([]byte, 20)))), dropRoutingHeader},
		{"RH0 behind destination options", l2(v6, packet6("fd77::2", "2001:db8::7", 60, ext(43, 1, ext(uint8(tcp), 1, nil)))), dropRoutingHeader},
		{"destination options", l2(v6, packet6("fd77::2", "2001:db8::7", 60, ext(uint8(tcp), 2, make([]byte, 20)))), ""},
		{"endless extension headers", l2(v6, packet6("fd77::2", "2001:db8::7", 60, ext(60, 20, ext(60, 20, nil)))), dropLongChain},
		{"cut extension header", l2(v6, packet6("fd77::2", "2001:db8::7", 60, []byte{6, 3, 0, 0})), dropLongChain},
		{"fragment", l2(v6, packet6("fd77::2", "2001:db8::7", 44, ext(uint8(udpProto), 1, make([]byte, 8)))), ""},
	}
}

func TestFilter(t *testing.T) {
	f := newFilter(Config{
		Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6, GuestMAC: guestMAC, GatewayMAC: gatewayMAC,
	})
	for _, tt := range filterCases() {
		t.Run(tt.name, func(t *testing.T) {
			v, why := f.check(tt.frame[:min(len(tt.frame), maxHeaders)], len(tt.frame))
			got := why
			if v == neighbour {
				got = "neighbour"
			}
			if got != tt.want || (v == discard) != (why != "") {
				t.Errorf("check = %v %q, want %q\n%s", v, why, tt.want, hex.Dump(tt.frame))
			}
		})
	}
}

func TestFilterWithoutIPv6(t *testing.T) {
	f := newFilter(Config{Addr4: guest4, Gateway4: gateway4, GuestMAC: guestMAC, GatewayMAC: gatewayMAC})
	frame := l2(header.IPv6ProtocolNumber, packet6("fd77::2", "2001:db8::7", 6, make([]byte, 20)))
	if v, why := f.check(frame, len(frame)); v != discard || why != dropNoIPv6 {
		t.Errorf("check = %v %q", v, why)
	}
}

// hostileFrames are all frames that must not get through, and some that do and mean nothing.
func hostileFrames() [][]byte {
	frames := [][]byte{bytes.Repeat([]byte{0xff}, 1500), make([]byte, 60)}
	for _, tt := range filterCases() {
		frames = append(frames, tt.frame)
	}
	return frames
}

// The link lives through every hostile frame, whatever its vnet header says, and counts each.
func TestHostileFramesKeepTheLinkAlive(t *testing.T) {
	l := hostListener(t, echo)
	for _, vnet := range []int{0, vnetHdrLen} {
		p := newPeer(t, Config{Link: Link{VnetHdr: vnet}}, toHost(l, nil))
		for _, frame := range hostileFrames() {
			if len(frame) > 0 || vnet > 0 { // an empty message is the pair's end of file
				p.sendFrame(frame)
			}
		}
		p.file.Write([]byte{1, 2, 3})
		for _, hdr := range []vnetHdr{
			{flags: vnetNeedsCsum, csumStart: 0xffff, csumOffset: 0xffff},
			{gsoType: vnetGSOTCPv4},
			{gsoType: vnetGSOTCPv6, gsoSize: 1, hdrLen: 0xffff},
			{gsoType: vnetGSOUDPL4, gsoSize: 1},
			{gsoType: 77, gsoSize: 1},
		} {
			b := make([]byte, vnetHdrLen)
			hdr.put(b)
			if vnet > 0 {
				p.file.Write(append(b, l2(header.IPv4ProtocolNumber, packet4("10.77.0.2", "203.0.113.7", 17, nil, datagram(9, 9, 100)))...))
			}
		}
		roundTrip(t, p.mustDial(t, "203.0.113.7:80"), "alive")
		for _, name := range []string{dropRunt, dropForeignMAC, dropEtherType, dropMalformedIP, dropSourceRoute, dropRoutingHeader, dropSpoofed, dropMulticast, dropLongChain, dropARP, dropNDP} {
			if p.counters.get(name) == 0 {
				t.Errorf("%s was not counted", name)
			}
		}
		if vnet > 0 && p.counters.get(dropVnetHdr) != 5 {
			t.Errorf("counters %v", p.Counters())
		}
	}
}

func TestARPForTheGateway(t *testing.T) {
	request := func(sender, target string) []byte {
		a := header.ARP(make([]byte, header.ARPSize))
		a.SetIPv4OverEthernet()
		a.SetOp(header.ARPRequest)
		copy(a.HardwareAddressSender(), guestMAC)
		copy(a.ProtocolAddressSender(), netip.MustParseAddr(sender).AsSlice())
		copy(a.ProtocolAddressTarget(), netip.MustParseAddr(target).AsSlice())
		return l2(header.ARPProtocolNumber, a)
	}
	e, inside := bareEndpoint(t)
	e.answerNeighbour(request("10.77.0.3", "10.77.0.1"))
	e.answerNeighbour(request("10.77.0.2", "10.77.0.9"))
	if got := e.counters.get(dropARP); got != 2 {
		t.Errorf("%d dropped, want 2", got)
	}
	e.answerNeighbour(request("10.77.0.2", "10.77.0.1"))
	b := make([]byte, 128)
	n, err := inside.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	reply := header.ARP(b[header.EthernetMinimumSize:n])
	if reply.Op() != header.ARPReply || !bytes.Equal(reply.HardwareAddressSender(), gatewayMAC) || !bytes.Equal(b[:6], guestMAC) {
		t.Errorf("reply %x", b[:n])
	}
}

func TestNeighbourSolicitationForTheGateway(t *testing.T) {
	solicit := func(src, target string, hopLimit uint8) []byte {
		body := make([]byte, header.ICMPv6NeighborSolicitMinimumSize)
		icmp := header.ICMPv6(body)
		icmp.SetType(header.ICMPv6NeighborSolicit)
		header.NDPNeighborSolicit(icmp.MessageBody()).SetTargetAddress(tcpip.AddrFrom16(netip.MustParseAddr(target).As16()))
		pkt := packet6(src, "ff02::1:ff00:1", uint8(header.ICMPv6ProtocolNumber), body)
		header.IPv6(pkt).SetHopLimit(hopLimit)
		return l2(header.IPv6ProtocolNumber, pkt)
	}
	e, inside := bareEndpoint(t)
	for _, bad := range [][]byte{
		solicit("fd77::2", "fd77::9", 255), solicit("fd77::3", "fd77::1", 255), solicit("fd77::2", "fd77::1", 64), solicit("::", "fd77::1", 255),
	} {
		e.answerNeighbour(bad)
	}
	if got := e.counters.get(dropNDP); got != 4 {
		t.Errorf("%d dropped, want 4", got)
	}
	for _, src := range []string{"fd77::2", "fe80::2"} {
		e.answerNeighbour(solicit(src, "fd77::1", 255))
		b := make([]byte, 128)
		n, err := inside.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		ip := header.IPv6(b[header.EthernetMinimumSize:n])
		icmp := header.ICMPv6(ip.Payload())
		if icmp.Type() != header.ICMPv6NeighborAdvert || ip.DestinationAddress().String() != src {
			t.Errorf("reply %x", b[:n])
		}
		icmpSum := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()})
		if icmpSum != icmp.Checksum() {
			t.Errorf("checksum %x, want %x", icmp.Checksum(), icmpSum)
		}
	}
}

// A super-datagram comes out as the datagrams that went in.
func TestUSOIsCut(t *testing.T) {
	payload := make([]byte, 2500)
	for i := range payload {
		payload[i] = byte(i)
	}
	for name, pkt := range map[string][]byte{
		"v4": packet4("10.77.0.2", "203.0.113.7", 17, nil, append(datagram(9, 9, 0), payload...)),
		"v6": packet6("fd77::2", "2001:db8::7", 17, append(datagram(9, 9, 0), payload...)),
	} {
		hdrs, rest, ok := splitUDP(l2(header.IPv4ProtocolNumber, pkt))
		if !ok || !bytes.Equal(rest, payload) {
			t.Errorf("%s: split into %d and %d, %v", name, len(hdrs), len(rest), ok)
		}
		hlen := len(hdrs) - header.EthernetMinimumSize - header.UDPMinimumSize
		cut := append(bytes.Clone(hdrs[header.EthernetMinimumSize:]), rest[:1000]...)
		fixUDP(cut, hlen)
		h := header.UDP(cut[hlen:])
		var src, dst tcpip.Address
		if hlen == header.IPv4MinimumSize {
			v4 := header.IPv4(cut)
			src, dst = v4.SourceAddress(), v4.DestinationAddress()
			if !v4.IsValid(len(cut)) || !v4.IsChecksumValid() {
				t.Errorf("%s: header not valid", name)
			}
		} else {
			v6 := header.IPv6(cut)
			src, dst = v6.SourceAddress(), v6.DestinationAddress()
			if !v6.IsValid(len(cut)) {
				t.Errorf("%s: header not valid", name)
			}
		}
		if h.Length() != 1008 || !h.IsChecksumValid(src, dst, checksum.Checksum(cut[hlen+8:], 0)) {
			t.Errorf("%s: length %d or checksum wrong", name, h.Length())
		}
	}
	if _, _, ok := splitUDP(l2(header.IPv4ProtocolNumber, packet4("10.77.0.2", "203.0.113.7", 6, nil, payload))); ok {
		t.Error("cut a TCP packet")
	}
}

func TestSegment(t *testing.T) {
	const mss = 100
	payload := bytes.Repeat([]byte("0123456789"), 25)
	f := segmentFields{src: guest4, dst: gateway4, sport: 1, dport: 2, seq: 1000, flags: header.TCPFlagFin | header.TCPFlagPsh | header.TCPFlagAck | tcpFlagCWR, payload: payload}
	var got []byte
	segs := segment(f.frame(), header.IPv4MinimumSize, mss)
	for i, seg := range segs {
		ip := header.IPv4(seg[header.EthernetMinimumSize:])
		tcp := header.TCP(ip.Payload())
		if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() ||
			!tcp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksum.Checksum(tcp.Payload(), 0), uint16(len(tcp.Payload()))) {
			t.Errorf("segment %d is not valid", i)
		}
		last := i == len(segs)-1
		if tcp.SequenceNumber() != uint32(1000+i*mss) || tcp.Flags().Contains(header.TCPFlagFin) != last || tcp.Flags().Contains(tcpFlagCWR) != (i == 0) {
			t.Errorf("segment %d: seq %d flags %v", i, tcp.SequenceNumber(), tcp.Flags())
		}
		got = append(got, tcp.Payload()...)
	}
	if len(segs) != 3 || !bytes.Equal(got, payload) {
		t.Errorf("%d segments, %d bytes", len(segs), len(got))
	}
}

func TestVnetHdr(t *testing.T) {
	h := vnetHdr{flags: 1, gsoType: 4, hdrLen: 74, gsoSize: 1428, csumStart: 54, csumOffset: 16}
	b := make([]byte, vnetHdrLen)
	h.put(b)
	if got := parseVnetHdr(b); got != h {
		t.Errorf("%+v came back as %+v", h, got)
	}
	if binary.LittleEndian.Uint16(b[4:]) != 1428 {
		t.Errorf("header %x", b)
	}
}
