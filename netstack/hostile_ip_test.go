package netstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const flow4, flow6 = "tcp 203.0.113.7:80", "tcp [2001:db8::7]:80"

// ipv4Rows are IPv4 headers that are odd, or lie.
func ipv4Rows() []hostileRow {
	syn := segmentTo("203.0.113.7", flagSYN, nil, nil)
	with := func(src, dst string, options []byte) []byte { return l2(ethernet4, packet4(src, dst, 6, options, syn)) }
	from := func(src string) []byte { return with(src, "203.0.113.7", nil) }
	to := func(dst string) []byte {
		return l2(ethernet4, packet4("10.77.0.2", dst, 6, nil, segmentTo(dst, flagSYN, nil, nil)))
	}
	good := from("10.77.0.2")
	summed := func(i int, v byte) []byte {
		b := patched(good, 14+i, v)
		h := header.IPv4(b[14:])
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(h[:min(len(h), int(h.HeaderLength()))], 0))
		return b
	}
	drop := func(name, counter string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: counter}
	}
	pass := func(name string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), flows: []string{flow4}, answers: []string{"tcp RA"}}
	}
	opts := func(b ...byte) []byte { return with("10.77.0.2", "203.0.113.7", b) }
	problem := func(name string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: countIPParameter, answers: []string{"icmp 12/0"}}
	}
	rows := []hostileRow{
		drop("LSRR", dropSourceRoute, opts(131, 7, 4, 10, 0, 0, 1, 0)),
		drop("SSRR", dropSourceRoute, opts(137, 7, 4, 10, 0, 0, 1, 0)),
		drop("SSRR behind NOPs", dropSourceRoute, opts(1, 1, 1, 1, 137, 3, 4, 0)),
		drop("LSRR behind record route", dropSourceRoute, opts(7, 7, 4, 0, 0, 0, 0, 131, 7, 4, 10, 0, 0, 1, 0, 0)),
		pass("record route", opts(7, 7, 4, 0, 0, 0, 0, 0)),
		pass("timestamp", opts(68, 8, 5, 0, 0, 0, 0, 0)),
		pass("router alert", opts(148, 4, 0, 0)),
		pass("unknown option", opts(0x9e, 4, 1, 2)),
		pass("security", opts(130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
		problem("record route, pointer 3", opts(7, 7, 3, 0, 0, 0, 0, 0)),
		problem("timestamp, bad flags", opts(68, 8, 5, 9, 0, 0, 0, 0)),
		problem("timestamp twice", opts(68, 8, 5, 0, 0, 0, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0)),
		drop("option of length 0", dropMalformedIP, opts(7, 0, 0, 0)),
		drop("option of length 1", dropMalformedIP, opts(7, 1, 0, 0)),
		drop("option beyond the header", dropMalformedIP, opts(7, 9, 4, 0)),
		drop("option without a length", dropMalformedIP, opts(1, 1, 1, 7)),

		drop("version 5", dropMalformedIP, patched(good, 14, 0x55)),
		drop("version 6", dropMalformedIP, patched(good, 14, 0x65)),
		drop("header of 16 bytes", dropMalformedIP, summed(0, 0x44)),
		drop("header of 0 bytes", dropMalformedIP, summed(0, 0x40)),
		drop("header beyond the packet", dropMalformedIP, summed(0, 0x4f)),
		drop("total length beyond the frame", dropMalformedIP, summed(3, 99)),
		drop("total length 0", dropMalformedIP, summed(3, 0)),
		drop("total length below the header", dropMalformedIP, summed(3, 19)),
		drop("total length cuts the TCP header", countL4Malformed, summed(3, 30)),
		pass("TTL 0", summed(8, 0)),
		pass("TTL 1", summed(8, 1)),
		pass("all of ToS", summed(1, 0xff)),
		pass("evil bit", summed(6, 0x80)),

		drop("from the gateway", dropSpoofed, from("10.77.0.1")),
		drop("from the gateway to the gateway", dropSpoofed, with("10.77.0.1", "10.77.0.1", nil)),
		drop("from loopback", dropSpoofed, from("127.0.0.1")),
		drop("from multicast", dropSpoofed, from("224.0.0.1")),
		drop("from broadcast", dropSpoofed, from("255.255.255.255")),
		drop("from nowhere", dropSpoofed, from("0.0.0.0")),
		drop("from another sandbox", dropSpoofed, from("10.77.0.6")),
		drop("from the upstream", dropSpoofed, from("203.0.113.7")),
		drop("to loopback", countIPDestination, to("127.0.0.1")),
		drop("to broadcast", dropMulticast, to("255.255.255.255")),
		drop("to multicast", dropMulticast, to("239.255.255.250")),
		drop("to itself", dropOwnAddress, to("10.77.0.2")),
		drop("to nowhere", dropUnspecified, to("0.0.0.0")),
		{name: "to class E", frames: one(to("240.0.0.1")), flows: []string{"tcp 240.0.0.1:80"}, answers: []string{"tcp RA"}},
		{name: "to the gateway", frames: one(to("10.77.0.1")), flows: []string{"tcp 10.77.0.1:80"}, answers: []string{"tcp RA"}},
		drop("IGMP report", dropMulticast, l2(ethernet4, packet4("10.77.0.2", "224.0.0.22", 2, []byte{148, 4, 0, 0}, icmp4(0x22, 0, 1, make([]byte, 8))))),
		drop("IGMP query to the gateway", dropMulticast, l2(ethernet4, packet4("10.77.0.2", "10.77.0.1", 2, nil, icmp4(0x11, 0, 0, nil)))),
		drop("DHCP offer from inside", dropSpoofed, l2(ethernet4, packet4("10.77.0.9", "255.255.255.255", 17, nil, datagram(67, 68, 240)))),
		drop("DHCP garbage", countDHCPInvalid, l2(ethernet4, packet4("0.0.0.0", "255.255.255.255", 17, nil, datagram(68, 67, 240)))),
		drop("DHCP, option", dropSourceRoute, l2(ethernet4, packet4("0.0.0.0", "255.255.255.255", 17, []byte{131, 3, 4, 0}, datagram(68, 67, 240)))),
	}
	sum := drop("bad checksum", countIPMalformed, patched(good, 24, good[24]^0xff))
	sum.link = plainLink
	return append(rows, sum)
}

// ipv6Rows are IPv6 headers likewise, and the headers behind them.
func ipv6Rows() []hostileRow {
	const dst = "2001:db8::7"
	syn := segmentTo(dst, flagSYN, nil, nil)
	behind := func(next uint8, payload []byte) []byte { return l2(ethernet6, packet6("fd77::2", dst, next, payload)) }
	to := func(d string) []byte { return l2(ethernet6, packet6("fd77::2", d, 6, segmentTo(d, flagSYN, nil, nil))) }
	good := behind(6, syn)
	drop := func(name, counter string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: counter}
	}
	pass := func(name string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), flows: []string{flow6}, answers: []string{"tcp RA"}}
	}
	problem := func(name string, frame []byte, code string) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: countIPParameter, answers: []string{"icmp 4/" + code}}
	}
	long := syn
	for range 30 {
		long = ext6(60, 1, long)
	}
	jumbo := patched(patched(behind(0, append([]byte{6, 0, 0xc2, 4, 0, 1, 0, 0}, syn...)), 18, 0), 19, 0)
	return []hostileRow{
		pass("options, all skipped", behind(0, options6(6, 0x1e, syn))),
		drop("hop-by-hop, discard", dropExtension, behind(0, options6(6, 0x5e, syn))),
		problem("hop-by-hop, discard and tell", behind(0, options6(6, 0x9e, syn)), "2"),
		problem("hop-by-hop, discard and tell unicast", behind(0, options6(6, 0xde, syn)), "2"),
		drop("destination options, discard", dropExtension, behind(60, options6(6, 0x5e, syn))),
		problem("destination options, discard and tell", behind(60, options6(6, 0x9e, syn)), "2"),
		problem("destination options, discard and tell unicast", behind(60, options6(6, 0xde, syn)), "2"),
		drop("option beyond its header", countIPMalformed, behind(0, append([]byte{6, 0, 0x1e, 200, 0, 0, 0, 0}, syn...))),
		problem("hop-by-hop in second place", behind(60, ext6(0, 1, ext6(6, 1, syn))), "1"),
		drop("two router alerts", countIPMalformed, behind(0, append([]byte{6, 1, 5, 2, 0, 0, 5, 2, 0, 0, 1, 4, 0, 0, 0, 0}, syn...))),
		drop("long chain", dropLongChain, behind(60, long)),
		drop("one long header", dropLongChain, behind(60, ext6(6, 26, syn))),
		drop("header beyond the payload", dropLongChain, behind(60, append([]byte{6, 3}, make([]byte, 20)...))),
		drop("RH0", dropRoutingHeader, behind(43, append([]byte{6, 2, 0, 1}, append(make([]byte, 20), syn...)...))),
		drop("RH0, no segments left", dropRoutingHeader, behind(43, ext6(6, 3, syn))),
		drop("RH2", dropRoutingHeader, behind(43, append([]byte{6, 2, 2, 1}, append(make([]byte, 20), syn...)...))),
		drop("RH4", dropRoutingHeader, behind(43, append([]byte{6, 2, 4, 1}, append(make([]byte, 20), syn...)...))),
		drop("routing header behind options", dropRoutingHeader, behind(60, ext6(43, 1, ext6(6, 3, syn)))),
		drop("routing header behind a fragment header", dropRoutingHeader, behind(44, fragHeader6(43, 1, 0, false, ext6(6, 3, syn)))),
		drop("no next header", dropExtension, behind(59, syn)),
		drop("no next header behind options", dropExtension, behind(60, ext6(59, 1, syn))),
		drop("jumbogram", dropLongChain, jumbo),
		drop("payload length beyond the frame", dropMalformedIP, patched(good, 19, 99)),
		drop("payload length 0", countL4Malformed, patched(good, 19, 0)),
		drop("version 4", dropMalformedIP, patched(good, 14, 0x45)),
		pass("hop limit 0", patched(good, 21, 0)),
		pass("flow label and class", patched(patched(good, 14, 0x6f), 17, 0xff)),
		problem("ESP", behind(50, make([]byte, 40)), "1"),
		problem("AH", behind(51, append([]byte{6, 4}, make([]byte, 40)...)), "1"),
		problem("unknown next header", behind(200, make([]byte, 40)), "1"),
		problem("mobility header", behind(135, ext6(59, 1, nil)), "1"),
		problem("host identity", behind(139, ext6(59, 1, nil)), "1"),
		problem("SHIM6", behind(140, ext6(59, 1, nil)), "1"),
		problem("IPv4 in IPv6", behind(4, packet4("10.77.0.2", "203.0.113.7", 6, nil, syn)), "1"),
		problem("IPv6 in IPv6", behind(41, packet6("fd77::2", dst, 6, syn)), "1"),
		drop("from the gateway", dropSpoofed, l2(ethernet6, packet6("fd77::1", dst, 6, syn))),
		drop("from loopback", dropSpoofed, l2(ethernet6, packet6("::1", dst, 6, syn))),
		drop("from multicast", dropSpoofed, l2(ethernet6, packet6("ff02::1", dst, 6, syn))),
		drop("from nowhere", dropSpoofed, l2(ethernet6, packet6("::", dst, 6, syn))),
		drop("from link-local", dropSpoofed, l2(ethernet6, packet6("fe80::2", dst, 6, syn))),
		drop("from another sandbox", dropSpoofed, l2(ethernet6, packet6("fd77::6", dst, 6, syn))),
		drop("from a mapped address", dropSpoofed, l2(ethernet6, packet6("::ffff:10.77.0.2", dst, 6, syn))),
		drop("to loopback", countIPDestination, to("::1")),
		drop("to a mapped address", countIPDestination, to("::ffff:203.0.113.7")),
		drop("to itself", dropOwnAddress, to("fd77::2")),
		drop("to multicast", dropMulticast, to("ff05::2")),
		drop("to nowhere", dropUnspecified, to("::")),
		{name: "to link-local", frames: one(to("fe80::1")), flows: []string{"tcp [fe80::1]:80"}, answers: []string{"tcp RA"}},
	}
}

// fragment4Rows: a datagram is judged whole or not at all.
func fragment4Rows() []hostileRow {
	const udp, tcp, icmp = header.UDPProtocolNumber, header.TCPProtocolNumber, header.ICMPv4ProtocolNumber
	const udpFlow = "udp 203.0.113.7:9"
	d := datagram(9, 9, 56)
	syn := segmentTo("203.0.113.7", flagSYN, nil, make([]byte, 12))
	evil := bytes.Clone(syn)
	evil[3] = 81 // another port
	row := func(name, counter string, frames ...[]byte) hostileRow {
		return hostileRow{name: name, frames: frames, counter: counter}
	}
	whole := func(name, f, answer string, frames ...[]byte) hostileRow {
		return hostileRow{name: name, frames: frames, flows: []string{f}, answers: []string{answer}}
	}
	part := func(proto tcpip.TransportProtocolNumber, id uint16, b []byte, from, to int) []byte {
		return frag4(proto, id, from, to < len(b), b[from:to])
	}
	var unfinished [][]byte
	for id := range uint16(200) {
		unfinished = append(unfinished, frag4(udp, id, 0, true, d))
	}
	return []hostileRow{
		whole("in order", udpFlow, "icmp 3/3", part(udp, 1, d, 0, 24), part(udp, 1, d, 24, 64)),
		whole("out of order", udpFlow, "icmp 3/3", part(udp, 1, d, 24, 64), part(udp, 1, d, 0, 24)),
		whole("doubled", udpFlow, "icmp 3/3", part(udp, 1, d, 0, 24), part(udp, 1, d, 0, 24), part(udp, 1, d, 24, 64)),
		whole("doubled with other bytes", flow4, "tcp RA", part(tcp, 1, syn, 0, 8), part(tcp, 1, evil, 0, 8), part(tcp, 1, syn, 8, 32)),
		whole("tiny first fragment", flow4, "tcp RA", part(tcp, 1, syn, 0, 8), part(tcp, 1, syn, 8, 32)),
		whole("header in five parts", flow4, "tcp RA", part(tcp, 1, syn, 16, 24), part(tcp, 1, syn, 0, 8), part(tcp, 1, syn, 24, 32), part(tcp, 1, syn, 8, 16)),
		row("ports rewritten by an overlap", countIPFragments, part(tcp, 1, syn, 0, 16), frag4(tcp, 1, 8, true, evil[8:24]), part(tcp, 1, syn, 16, 32)),
		row("first fragment overlapped whole", countIPFragments, part(tcp, 1, syn, 0, 16), frag4(tcp, 1, 0, true, evil[:24]), part(tcp, 1, syn, 16, 32)),
		row("teardrop", countIPFragments, part(udp, 1, d, 0, 40), frag4(udp, 1, 24, false, d[:4])),
		row("two ends", countIPFragments, frag4(udp, 1, 40, false, d[40:]), frag4(udp, 1, 32, false, d[32:40])),
		row("beyond 65535", countIPFragments, frag4(udp, 1, 65528, false, make([]byte, 100))),
		row("ping of death", countIPFragments, frag4(icmp, 1, 0, true, icmp4(8, 0, 1, make([]byte, 1472))), frag4(icmp, 1, 65512, false, make([]byte, 400))),
		row("no payload", countIPFragments, frag4(udp, 1, 0, true, nil)),
		row("length that is no multiple of 8", countIPFragments, frag4(udp, 1, 0, true, d[:13])),
		row("end only", "", frag4(udp, 1, 24, false, d[24:])),
		row("begin only", "", frag4(udp, 1, 0, true, d[:24])),
		row("200 that are never finished", dropIncomplete, unfinished...),
		row("other id", "", part(udp, 1, d, 0, 24), part(udp, 2, d, 24, 64)),
		row("other protocol", "", part(udp, 1, d, 0, 24), part(tcp, 1, d, 24, 64)),
		row("spoofed", dropSpoofed, l2(ethernet4, patched(frag4(udp, 1, 0, true, d)[14:], 15, 9))),
		row("source route in the second", dropSourceRoute, part(udp, 1, d, 0, 24), l2(ethernet4, packet4("10.77.0.2", "203.0.113.7", 17, []byte{131, 3, 4, 0}, d[24:]))),
		row("ICMP error in fragments", dropICMPError, frag4(icmp, 1, 0, true, icmp4(3, 1, 0, make([]byte, 24))), frag4(icmp, 1, 32, false, make([]byte, 8))),
		whole("ping in fragments", "icmp 203.0.113.7:0", "icmp 3/13", frag4(icmp, 1, 0, true, icmp4(8, 0, 1, make([]byte, 64))[:32]), frag4(icmp, 1, 32, false, make([]byte, 40))),
	}
}

// fragment6Rows are the same for IPv6.
func fragment6Rows() []hostileRow {
	const udp, tcp = uint8(header.UDPProtocolNumber), uint8(header.TCPProtocolNumber)
	const udpFlow = "udp [2001:db8::7]:9"
	d := udp6("2001:db8::7", 9, 56)
	syn := segmentTo("2001:db8::7", flagSYN, nil, make([]byte, 12))
	row := func(name, counter string, frames ...[]byte) hostileRow {
		return hostileRow{name: name, frames: frames, counter: counter}
	}
	whole := func(name, f, answer string, frames ...[]byte) hostileRow {
		return hostileRow{name: name, frames: frames, flows: []string{f}, answers: []string{answer}}
	}
	part := func(next uint8, b []byte, from, to int) []byte {
		return frag6(next, 1, from, to < len(b), b[from:to])
	}
	overlap := row("overlap", countIPFragments, part(tcp, syn, 0, 16), frag6(tcp, 1, 8, true, syn[8:24]), part(tcp, syn, 16, 32))
	return []hostileRow{
		whole("atomic", flow6, "tcp RA", frag6(tcp, 1, 0, false, syn)),
		whole("atomic between fragments", udpFlow, "icmp 1/4", part(udp, d, 0, 24), frag6(udp, 1, 0, false, d)),
		whole("in order", udpFlow, "icmp 1/4", part(udp, d, 0, 24), part(udp, d, 24, 64)),
		whole("out of order", udpFlow, "icmp 1/4", part(udp, d, 24, 64), part(udp, d, 0, 24)),
		whole("next header only counts in the first", udpFlow, "icmp 1/4", part(tcp, d, 24, 64), part(udp, d, 0, 24)),
		overlap,
		row("two ends", countIPFragments, frag6(udp, 1, 40, false, d[40:]), frag6(udp, 1, 32, false, d[32:40])),
		row("no payload", countIPFragments, frag6(udp, 1, 8, true, nil)),
		{name: "beyond 65535", frames: one(frag6(udp, 1, 65528, false, make([]byte, 100))), counter: countIPFragments, answers: []string{"icmp 4/0"}},
		{name: "length that is no multiple of 8", frames: one(frag6(udp, 1, 0, true, d[:13])), counter: countIPFragments, answers: []string{"icmp 4/0"}},
		row("nested", dropNested, frag6(44, 1, 0, false, fragHeader6(tcp, 2, 0, false, syn))),
		row("nested behind options", dropNested, frag6(60, 1, 0, true, ext6(44, 1, fragHeader6(tcp, 2, 0, true, syn[:8])))),
		row("chain that goes on in the second", dropLongChain, frag6(60, 1, 0, true, append([]byte{tcp, 3}, make([]byte, 14)...)), frag6(60, 1, 16, false, syn)),
		row("end only", "", part(udp, d, 24, 64)),
		row("routing header in the second", "", frag6(43, 1, 24, false, ext6(tcp, 1, syn))),
		row("spoofed", dropSpoofed, patched(part(udp, d, 0, 24), 14+23, 9)),
		row("ICMP error in fragments", dropICMPError, frag6(58, 1, 0, true, icmp6("fd77::2", "2001:db8::7", 1, 0, 0, make([]byte, 56))[:32]), frag6(58, 1, 32, false, make([]byte, 32))),
	}
}
