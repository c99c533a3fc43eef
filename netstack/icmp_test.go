package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// echoPacket is an echo message in an IP packet of the guest.
func echoPacket(dst string, ident, seq uint16, payload string) (tcpip.NetworkProtocolNumber, []byte) {
	to := netip.MustParseAddr(dst)
	if to.Is4() {
		pkt := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize+len(payload))
		m := header.ICMPv4(pkt[header.IPv4MinimumSize:])
		m.SetType(header.ICMPv4Echo)
		m.SetIdent(ident)
		m.SetSequence(seq)
		copy(m.Payload(), payload)
		m.SetChecksum(^checksum.Checksum(m, 0))
		return header.IPv4ProtocolNumber, finishIP4(pkt, uint8(header.ICMPv4ProtocolNumber),
			tcpip.AddrFrom4(guest4.As4()), tcpip.AddrFrom4(to.As4()))
	}
	pkt := make([]byte, header.IPv6MinimumSize+header.ICMPv6EchoMinimumSize+len(payload))
	src, d := tcpip.AddrFrom16(guest6.As16()), tcpip.AddrFrom16(to.As16())
	header.IPv6(pkt).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(pkt) - header.IPv6MinimumSize),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          64,
		SrcAddr:           src,
		DstAddr:           d,
	})
	m := header.ICMPv6(pkt[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6EchoRequest)
	m.SetIdent(ident)
	m.SetSequence(seq)
	copy(m.Payload(), payload)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: src, Dst: d}))
	return header.IPv6ProtocolNumber, pkt
}

// describeEcho says "source ident/sequence payload" of an echo reply, in either version, and "" of anything else.
func describeEcho(packet []byte) string {
	if header.IPVersion(packet) == header.IPv4Version {
		ip := header.IPv4(packet)
		m := header.ICMPv4(ip.Payload())
		if ip.TransportProtocol() != header.ICMPv4ProtocolNumber || m.Type() != header.ICMPv4EchoReply {
			return ""
		}
		if checksum.Checksum(m, 0) != 0xffff {
			return "bad checksum"
		}
		return fmt.Sprintf("%s %d/%d %s", ip.SourceAddress(), m.Ident(), m.Sequence(), m.Payload())
	}
	ip := header.IPv6(packet)
	m := header.ICMPv6(ip.Payload())
	if tcpip.TransportProtocolNumber(ip.NextHeader()) != header.ICMPv6ProtocolNumber || m.Type() != header.ICMPv6EchoReply {
		return ""
	}
	if header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()}) != m.Checksum() {
		return "bad checksum"
	}
	return fmt.Sprintf("%s %d/%d %s", ip.SourceAddress(), m.Ident(), m.Sequence(), m.Payload())
}

// answers returns a channel of what the guest receives from now on of ICMP: replies and errors.
func (g *guest) answers() <-chan string {
	c := make(chan string, 1024)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch = func(packet []byte) {
		if s := describeEcho(packet) + describeICMPError(packet); s != "" {
			c <- s
		}
	}
	return c
}

// pinger is a far host that answers echo requests, by way of a kernel that puts its own identifier in.
var pinger = handlerFunc(func(ctx context.Context, a flow.Arrival) {
	conn, err := a.Accept()
	if err != nil {
		return
	}
	b := make([]byte, 1<<16)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		m := b[:n]
		m[0] = byte(header.ICMPv4EchoReply)
		if a.Dst.Addr().Is6() {
			m[0] = byte(header.ICMPv6EchoReply)
		}
		binary.BigEndian.PutUint16(m[2:], 0xdead)
		binary.BigEndian.PutUint16(m[4:], 0xbeef)
		conn.Write(m)
	}
})

func TestEchoReply(t *testing.T) {
	for _, dst := range []string{"192.0.2.1", "2001:db8::1"} {
		t.Run(dst, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, pinger)
			got := g.answers()
			// Two pings to one host at once: two identifiers, two flows.
			for seq := range uint16(3) {
				for ident := range uint16(2) {
					g.send(echoPacket(dst, 700+ident, seq, "weir"))
					want := fmt.Sprintf("%s %d/%d weir", dst, 700+ident, seq)
					if s := receiveString(t, got); s != want {
						t.Fatalf("got %s, want %s", s, want)
					}
				}
			}
			if n := g.Counters()[countICMPFlows]; n != 2 {
				t.Errorf("%d flows, want 2", n)
			}
		})
	}
}

// A host that does not answer stays silent; only the gateway is answered for by the door.
func TestEchoIsNeverFaked(t *testing.T) {
	noLeaks(t)
	arrived := make(chan string, 10)
	g := newGuest(t, Limits{}, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		arrived <- fmt.Sprint(a.Network, " ", a.Src, " ", a.Dst)
		a.Accept()
		<-ctx.Done()
	}))
	got := g.answers()
	for dst, want := range map[string]string{
		"192.0.2.1":   "icmp 10.77.0.2:0 192.0.2.1:0",
		"2001:db8::1": "icmp [fd77::2]:0 [2001:db8::1]:0",
	} {
		g.send(echoPacket(dst, 1, 1, "anybody there?"))
		if s := receiveString(t, arrived); s != want {
			t.Errorf("arrival %s, want %s", s, want)
		}
	}
	for _, dst := range []string{"10.77.0.1", "fd77::1"} {
		g.send(echoPacket(dst, 2, 3, "gateway"))
		if s, want := receiveString(t, got), dst+" 2/3 gateway"; s != want {
			t.Errorf("got %s, want %s", s, want)
		}
	}
	if len(arrived) != 0 {
		t.Errorf("a ping to the gateway became a flow: %s", <-arrived)
	}
}

func TestEchoReject(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason flow.Reason
		v4, v6 string
	}{
		{"denied", flow.Denied, "3/13", "1/1"},
		{"refused", flow.Refused, "3/1", "1/3"},
		{"no host", flow.HostUnreachable, "3/1", "1/3"},
		{"no network", flow.NetUnreachable, "3/0", "1/0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, rejecting(c.reason))
			got := g.answers()
			for dst, want := range map[string]string{"192.0.2.1": c.v4, "2001:db8::1": c.v6} {
				g.send(echoPacket(dst, 1, 1, "x"))
				if s := receiveString(t, got); s != want+" about "+dst {
					t.Errorf("got %s, want %s", s, want)
				}
			}
		})
	}
}

func TestEchoBounds(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{ICMPFlows: 8}, pinger)
	got := g.answers()
	// The burst passes, and of what follows no more than the rate.
	began := time.Now()
	const sent = 2000
	for i := range sent {
		g.send(echoPacket("192.0.2.1", uint16(i), 0, ""))
	}
	g.send(echoPacket("10.77.0.1", 0, 0, "end"))
	passed := 0
	for receiveString(t, got) != "10.77.0.1 0/0 end" {
		passed++
	}
	limit := echoBurst + int(time.Since(began).Seconds()*echoRate) + 1
	dropped := int(g.Counters()[countICMPRate])
	if passed > limit || sent-dropped > limit || passed < 1 {
		t.Errorf("%d of %d answered and %d dropped; the limit is %d", passed, sent, dropped, limit)
	}
	if g.Counters()[countICMPEvicted]+g.Counters()[countICMPHalfOpen] == 0 {
		t.Errorf("nothing made room: %v", g.Counters())
	}
}

func TestEchoDropped(t *testing.T) {
	_, badSum := echoPacket("192.0.2.1", 1, 1, "x")
	badSum[len(badSum)-1] ^= 1
	_, badCode := echoPacket("192.0.2.1", 1, 1, "")
	m := header.ICMPv4(badCode[header.IPv4MinimumSize:])
	m.SetCode(1)
	m.SetChecksum(0)
	m.SetChecksum(^checksum.Checksum(m, 0))
	_, reply := echoPacket("192.0.2.1", 1, 1, "")
	m = header.ICMPv4(reply[header.IPv4MinimumSize:])
	m.SetType(header.ICMPv4EchoReply)
	m.SetChecksum(0)
	m.SetChecksum(^checksum.Checksum(m, 0))
	_, big := echoPacket("192.0.2.1", 1, 1, string(make([]byte, maxEcho)))
	_, group := echoPacket("224.0.0.1", 1, 1, "")
	for _, c := range []struct {
		name   string
		packet []byte
		counts []string // one of them
	}{
		{"bad checksum", badSum, []string{countICMPMalformed}},
		{"code that is not 0", badCode, []string{countICMPType}},
		{"reply that nobody asked for", reply, []string{countICMPType}},
		{"too large", big, []string{countICMPSize}},
		{"to a group", group, []string{countICMPMulticast, dropMulticast}},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) { t.Errorf("flow to %s", a.Dst) }))
			got := g.answers()
			g.send(header.IPv4ProtocolNumber, c.packet)
			g.send(echoPacket("10.77.0.1", 0, 0, "end"))
			if s := receiveString(t, got); s != "10.77.0.1 0/0 end" {
				t.Errorf("the sandbox was told %s", s)
			}
			for _, name := range c.counts {
				if g.Counters()[name] == 1 {
					return
				}
			}
			t.Errorf("not counted: %v", g.Counters())
		})
	}
}

// Nothing but an echo reply goes into the sandbox by way of an echo flow.
func TestEchoWritesRepliesOnly(t *testing.T) {
	noLeaks(t)
	errs := make(chan error, 10)
	g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) {
		conn, _ := a.Accept()
		for _, m := range [][]byte{nil, make([]byte, 7), {8, 0, 0, 0, 0, 0, 0, 0}, {3, 1, 0, 0, 0, 0, 0, 0}, {0, 1, 0, 0, 0, 0, 0, 0}} {
			_, err := conn.Write(m)
			errs <- err
		}
		_, err := conn.Write(make([]byte, 8))
		errs <- err
		close(errs)
	}))
	g.send(echoPacket("192.0.2.1", 1, 1, ""))
	i := 0
	for err := range errs {
		if good := i == 5; errors.Is(err, errNotEchoReply) == good || good && err != nil {
			t.Errorf("write %d: %v", i, err)
		}
		i++
	}
}

// Protocols that nobody carries are refused as such.
func TestOtherProtocols(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) { t.Errorf("flow to %s", a.Dst) }))
	got := g.answers()
	dst := netip.MustParseAddr("192.0.2.1")
	for _, proto := range []uint8{132, 47, 33, 136} { // SCTP, GRE, DCCP, UDP-Lite
		pkt := make([]byte, header.IPv4MinimumSize+16)
		g.send(header.IPv4ProtocolNumber, finishIP4(pkt, proto, tcpip.AddrFrom4(guest4.As4()), tcpip.AddrFrom4(dst.As4())))
		if s := receiveString(t, got); s != "3/2 about 192.0.2.1" {
			t.Errorf("protocol %d: got %s", proto, s)
		}
	}
	_, pkt6 := echoPacket("2001:db8::1", 1, 1, "12345678")
	header.IPv6(pkt6).SetNextHeader(132)
	g.send(header.IPv6ProtocolNumber, pkt6)
	// RFC 8200 section 4: an unrecognized next header is a parameter problem.
	if s := receiveString(t, got); s != "4/1 about 2001:db8::1" {
		t.Errorf("SCTP over IPv6: got %s", s)
	}
	if n := g.Counters()[countUnknownProtocol]; n != 5 {
		t.Errorf("%d counted, want 5", n)
	}
}

// The parser must stand any message, and never take one for a request that is none.
func FuzzParseEchoRequest(f *testing.F) {
	_, p4 := echoPacket("192.0.2.1", 1, 1, "x")
	_, p6 := echoPacket("2001:db8::1", 1, 1, "x")
	f.Add(p4[header.IPv4MinimumSize:], true)
	f.Add(p6[header.IPv6MinimumSize:], false)
	f.Add([]byte{8, 0, 0}, true)
	f.Fuzz(func(t *testing.T, m []byte, v4 bool) {
		request, valid := parseEchoRequest(m, v4)
		if request && valid {
			want := byte(header.ICMPv6EchoRequest)
			if v4 {
				want = byte(header.ICMPv4Echo)
			}
			if len(m) < 8 || m[0] != want || m[1] != 0 {
				t.Errorf("taken for a request: % x", m)
			}
			echoIdent(m)
		}
		if isEchoReply(m, v4) && len(m) < 8 {
			t.Errorf("taken for a reply: % x", m)
		}
	})
}
