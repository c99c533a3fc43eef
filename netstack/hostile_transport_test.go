package netstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// icmpRows are ICMP messages other than an ordinary ping.
func icmpRows() []hostileRow {
	quoted := packet4("203.0.113.7", "10.77.0.2", 6, nil, make([]byte, 20))
	quoted6 := packet6("2001:db8::7", "fd77::2", 6, make([]byte, 20))
	v4 := func(typ, code uint8, rest uint32, body []byte) []byte {
		return to4(header.ICMPv4ProtocolNumber, icmp4(typ, code, rest, body))
	}
	v6 := func(typ, code uint8, rest uint32, body []byte) []byte {
		return l2(ethernet6, packet6("fd77::2", "2001:db8::7", 58, icmp6("fd77::2", "2001:db8::7", typ, code, rest, body)))
	}
	drop := func(name, counter string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: counter}
	}
	typed := func(name string, frame []byte) hostileRow { return drop(name, countICMPType, frame) }
	sum := func(name string, frame []byte, at int, counter string) hostileRow {
		return drop(name, counter, patched(frame, at, frame[at]^0xff))
	}
	return []hostileRow{
		{name: "ping", frames: one(v4(8, 0, 1, nil)), flows: []string{"icmp 203.0.113.7:0"}, answers: []string{"icmp 3/13"}},
		{name: "ping6", frames: one(v6(128, 0, 1, nil)), flows: []string{"icmp [2001:db8::7]:0"}, answers: []string{"icmp 1/1"}},
		drop("ping, code 7", countICMPType, v4(8, 7, 1, nil)),
		drop("big ping", countICMPSize, v4(8, 0, 1, make([]byte, 9000))),
		drop("big ping6", countICMPSize, v6(128, 0, 1, make([]byte, 9000))),
		drop("cut", dropRunt, to4(header.ICMPv4ProtocolNumber, []byte{8, 0, 0xf7, 0xff})),
		drop("cut6", dropRunt, l2(ethernet6, packet6("fd77::2", "2001:db8::7", 58, []byte{128, 0}))),
		drop("without a type", dropRunt, to4(header.ICMPv4ProtocolNumber, nil)),
		sum("ping, bad checksum", v4(8, 0, 1, nil), 36, countICMPMalformed),
		sum("ping6, bad checksum", v6(128, 0, 1, nil), 56, countICMPInvalid),
		typed("reply", v4(0, 0, 1, nil)),
		typed("reply6", v6(129, 0, 1, nil)),
		typed("source quench", v4(4, 0, 0, quoted)),
		typed("redirect", v4(5, 1, 0x0a4d0066, quoted)),
		typed("router advertisement", v4(9, 0, 0x01020708, make([]byte, 8))),
		typed("router solicitation", v4(10, 0, 0, nil)),
		typed("time exceeded", v4(11, 0, 0, quoted)),
		typed("time exceeded6", v6(3, 0, 0, quoted6)),
		typed("parameter problem", v4(12, 0, 0, quoted)),
		typed("parameter problem6", v6(4, 0, 0, quoted6)),
		typed("timestamp", v4(13, 0, 1, make([]byte, 12))),
		typed("information request", v4(15, 0, 1, nil)),
		typed("address mask request", v4(17, 0, 1, make([]byte, 4))),
		typed("address mask reply", v4(18, 0, 1, []byte{255, 255, 255, 0})),
		typed("extended echo", v4(42, 0, 1, make([]byte, 8))),
		typed("node information", v6(139, 0, 0, make([]byte, 16))),
		typed("mobile prefix", v6(146, 0, 0, nil)),
		typed("unknown type", v4(200, 0, 0, nil)),
		typed("unknown type6", v6(200, 0, 0, nil)),
		drop("too big, MTU 68", dropICMPError, v4(3, 4, 68, quoted)),
		drop("too big, MTU 0", dropICMPError, v4(3, 4, 0, quoted)),
		drop("too big6, MTU 1279", dropICMPError, v6(2, 0, 1279, quoted6)),
		drop("too big6, MTU 0", dropICMPError, v6(2, 0, 0, quoted6)),
		drop("too big about no flow", "", v4(3, 4, 1400, quoted)),
		drop("unreachable about no flow", "", v4(3, 1, 0, quoted)),
		drop("unreachable about an error", "", v4(3, 1, 0, packet4("203.0.113.7", "10.77.0.2", 1, nil, icmp4(3, 1, 0, nil)))),
		drop("unreachable about half a header", "", v4(3, 1, 0, quoted[:12])),
		drop("unreachable about a lying header", "", v4(3, 1, 0, patched(quoted, 0, 0x4f))),
		drop("unreachable6 about a fragment", "", v6(1, 4, 0, packet6("2001:db8::7", "fd77::2", 44, fragHeader6(6, 1, 0, true, nil)))),
		drop("unreachable6 about half a fragment", "", v6(1, 4, 0, packet6("2001:db8::7", "fd77::2", 44, []byte{6, 0, 0}))),
	}
}

// protocolRows are what the door does not carry. The program is told so.
func protocolRows() (rows []hostileRow) {
	inner := packet4("10.77.0.2", "203.0.113.7", 6, nil, segmentTo("203.0.113.7", flagSYN, nil, nil))
	inner6 := packet6("fd77::2", "2001:db8::7", 6, segmentTo("2001:db8::7", flagSYN, nil, nil))
	for name, p := range map[string]struct {
		proto   tcpip.TransportProtocolNumber
		payload []byte
	}{
		"IPIP": {4, inner}, "6in4": {41, inner6}, "GRE": {47, append([]byte{0, 0, 8, 0}, inner...)}, "ESP": {50, make([]byte, 40)},
		"AH": {51, append([]byte{6, 4}, make([]byte, 40)...)}, "SCTP": {132, make([]byte, 40)}, "UDP-Lite": {136, datagram(9, 9, 8)},
		"DCCP": {33, make([]byte, 24)}, "OSPF": {89, make([]byte, 24)}, "PIM": {103, make([]byte, 8)}, "VRRP": {112, make([]byte, 16)},
		"EIGRP": {88, make([]byte, 20)}, "L2TP": {115, make([]byte, 20)}, "HOPOPT": {0, make([]byte, 20)}, "IPv6-Frag": {44, make([]byte, 20)},
		"reserved": {255, make([]byte, 20)},
	} {
		rows = append(rows, hostileRow{name: name, frames: one(to4(p.proto, p.payload)), counter: countUnknownProtocol, answers: []string{"icmp 3/2"}})
	}
	return rows
}

// udpRows are datagrams that do not add up.
func udpRows() []hostileRow {
	length := func(n byte, b []byte) []byte { return patched(b, 5, n) }
	drop := func(name, counter string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: counter}
	}
	pass := func(name, f, answer string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), flows: []string{f}, answers: []string{answer}}
	}
	v6 := func(b []byte) []byte { return l2(ethernet6, packet6("fd77::2", "2001:db8::7", 17, b)) }
	zero := drop("checksum 0 in IPv6", countUDPMalformed, v6(datagram(9, 9, 8)))
	zero.link = plainLink
	bad := drop("bad checksum", countUDPMalformed, to4(17, patched(datagram(9, 9, 8), 7, 1)))
	bad.link = plainLink
	return []hostileRow{
		zero, bad,
		drop("length beyond the packet", countUDPMalformed, to4(17, length(99, datagram(9, 9, 8)))),
		drop("length below the header", countUDPMalformed, to4(17, length(7, datagram(9, 9, 8)))),
		drop("length 0", countUDPMalformed, to4(17, length(0, datagram(9, 9, 8)))),
		drop("length 0 in IPv6", countUDPMalformed, v6(length(0, udp6("2001:db8::7", 9, 8)))),
		drop("cut header", countL4Malformed, to4(17, datagram(9, 9, 0)[:7])),
		drop("no header", countL4Malformed, to4(17, nil)),
		pass("length that leaves bytes over", "udp 203.0.113.7:9", "icmp 3/3", to4(17, length(12, datagram(9, 9, 8)))),
		pass("empty", "udp 203.0.113.7:9", "icmp 3/3", to4(17, datagram(9, 9, 0))),
		pass("empty in IPv6", "udp [2001:db8::7]:9", "icmp 1/4", v6(udp6("2001:db8::7", 9, 0))),
		pass("to port 0", "udp 203.0.113.7:0", "icmp 3/3", to4(17, datagram(9, 0, 4))),
		pass("from port 0", "udp 203.0.113.7:9", "icmp 3/3", to4(17, datagram(0, 9, 4))),
		pass("to the gateway's closed port", "udp 10.77.0.1:9", "icmp 3/3", l2(ethernet4, packet4("10.77.0.2", "10.77.0.1", 17, nil, datagram(9, 9, 4)))),
		drop("to nowhere", dropUnspecified, l2(ethernet4, packet4("10.77.0.2", "0.0.0.0", 17, nil, datagram(9, 9, 4)))),
		drop("SSDP", dropMulticast, l2(ethernet4, packet4("10.77.0.2", "239.255.255.250", 17, nil, datagram(9, 1900, 4)))),
		drop("mDNS", dropMulticast, l2(ethernet6, packet6("fd77::2", "ff02::fb", 17, withSum("fd77::2", "ff02::fb", 17, datagram(5353, 5353, 4), 6)))),
	}
}

// tcpRows are segments that open nothing, or open something in an odd way.
func tcpRows() []hostileRow {
	const fin, syn, rst, psh, ack, urg = header.TCPFlagFin, header.TCPFlagSyn, header.TCPFlagRst, header.TCPFlagPsh, header.TCPFlagAck, header.TCPFlagUrg
	reset := func(name, answer string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), answers: []string{answer}}
	}
	pass := func(name string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), flows: []string{flow4}, answers: []string{"tcp RA"}}
	}
	drop := func(name, counter string, frame []byte) hostileRow {
		return hostileRow{name: name, frames: one(frame), counter: counter}
	}
	opts := func(b ...byte) []byte { return tcpFrame(syn, b, nil) }
	offset := func(v byte) []byte {
		seg := segmentTo("203.0.113.7", syn, nil, nil)
		seg[12] = v
		return to4(6, withSum("10.77.0.2", "203.0.113.7", 6, seg, 16))
	}
	land := l2(ethernet4, packet4("10.77.0.2", "10.77.0.2", 6, nil, segmentTo("10.77.0.2", syn, nil, nil)))
	good := tcpFrame(syn, nil, nil)
	sum := drop("bad checksum", countL4Malformed, patched(good, 50, good[50]^0xff))
	sum.link = plainLink
	return []hostileRow{
		sum,
		drop("LAND", dropOwnAddress, land),
		drop("LAND of the gateway", dropSpoofed, l2(ethernet4, packet4("10.77.0.1", "10.77.0.1", 6, nil, segmentTo("10.77.0.1", syn, nil, nil)))),
		reset("XMAS", "tcp RA", tcpFrame(fin|psh|urg, nil, nil)),
		reset("NULL", "tcp RA", tcpFrame(0, nil, nil)),
		reset("FIN", "tcp RA", tcpFrame(fin, nil, nil)),
		reset("ACK", "tcp R", tcpFrame(ack, nil, nil)),
		reset("data without a connection", "tcp R", tcpFrame(ack|psh, nil, []byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"))),
		reset("SYN and ACK", "tcp R", tcpFrame(syn|ack, nil, nil)),
		pass("SYN and FIN", tcpFrame(syn|fin, nil, nil)),
		drop("SYN and RST", "", tcpFrame(syn|rst, nil, nil)),
		drop("RST", "", tcpFrame(rst, nil, nil)),
		drop("all flags", "", tcpFrame(0xff, nil, nil)),
		pass("SYN with urgent data", tcpFrame(syn|urg, nil, []byte("x"))),
		pass("SYN with data", tcpFrame(syn, nil, []byte("GET / HTTP/1.1\r\n"))),
		pass("SYN with a fast open cookie", tcpFrame(syn, []byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1}, []byte("GET / HTTP/1.1\r\n"))),
		pass("SYN with ECN", tcpFrame(syn|0xc0, nil, nil)),
		pass("MSS 0", opts(2, 4, 0, 0)),
		pass("MSS 1", opts(2, 4, 0, 1)),
		pass("MSS 65535", opts(2, 4, 0xff, 0xff)),
		pass("window scale 15", opts(3, 3, 15, 0)),
		pass("window scale 255", opts(3, 3, 255, 0)),
		pass("SACK in a SYN", opts(5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1)),
		pass("timestamps of all ones", opts(append(bytes.Repeat([]byte{0xff}, 0), 8, 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1)...)),
		pass("option of length 0", opts(200, 0, 0, 0)),
		pass("option beyond the header", opts(8, 200, 0, 0)),
		pass("option without a length", opts(1, 1, 1, 8)),
		pass("MD5 signature", opts(append([]byte{19, 18}, make([]byte, 18)...)...)),
		drop("data offset 16", countL4Malformed, offset(0x40)),
		drop("data offset 0", countL4Malformed, offset(0)),
		drop("data offset beyond the segment", countL4Malformed, offset(0xf0)),
		drop("cut", countL4Malformed, to4(6, segmentTo("203.0.113.7", syn, nil, nil)[:19])),
		drop("no header", countL4Malformed, to4(6, nil)),
		{name: "to port 0", frames: one(to4(6, withSum("10.77.0.2", "203.0.113.7", 6, patched(segmentTo("203.0.113.7", syn, nil, nil), 3, 0), 16))),
			flows: []string{"tcp 203.0.113.7:0"}, answers: []string{"tcp RA"}},
	}
}
