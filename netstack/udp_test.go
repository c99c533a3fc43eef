package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// patience bounds how long a test waits for what must come.
const patience = 20 * time.Second

// describeICMPError says "type/code about destination" of an ICMP error, in either version, and "" of anything else.
func describeICMPError(packet []byte) string {
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		ip := header.IPv4(packet)
		m := header.ICMPv4(ip.Payload())
		if ip.TransportProtocol() != header.ICMPv4ProtocolNumber || m.Type() == header.ICMPv4EchoReply || m.Type() == header.ICMPv4Echo {
			return ""
		}
		if checksum.Checksum(m, 0) != 0xffff {
			return "bad checksum"
		}
		return fmt.Sprintf("%d/%d about %s", m.Type(), m.Code(), header.IPv4(m.Payload()).DestinationAddress())
	case header.IPv6Version:
		ip := header.IPv6(packet)
		m := header.ICMPv6(ip.Payload())
		if tcpip.TransportProtocolNumber(ip.NextHeader()) != header.ICMPv6ProtocolNumber || !m.Type().IsErrorType() {
			return ""
		}
		if header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()}) != m.Checksum() {
			return "bad checksum"
		}
		return fmt.Sprintf("%d/%d about %s", m.Type(), m.Code(), header.IPv6(m.Payload()).DestinationAddress())
	}
	return ""
}

// receiveString waits for one string.
func receiveString(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(patience):
		t.Fatal("nothing came")
		return ""
	}
}

// echoHandler accepts every flow and answers each datagram with "destination:" and itself.
var echoHandler = handlerFunc(func(ctx context.Context, a flow.Arrival) {
	conn, err := a.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		if a.Network == "udp" {
			conn.Write(fmt.Appendf(nil, "%s %s", a.Dst, b[:n]))
		}
	}
})

// plainEcho sends every datagram back unchanged.
var plainEcho = handlerFunc(func(ctx context.Context, a flow.Arrival) {
	conn, err := a.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return
		}
	}
})

// rejecting refuses every flow.
func rejecting(reason flow.Reason) handlerFunc {
	return func(_ context.Context, a flow.Arrival) { a.Reject(reason) }
}

func noLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

func TestUDPConnected(t *testing.T) {
	for _, to := range []string{"192.0.2.1:9000", "[2001:db8::1]:9000", "10.77.0.1:9000"} {
		t.Run(to, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, echoHandler)
			conn := g.dialUDP(t, to)
			conn.SetDeadline(time.Now().Add(patience))
			b := make([]byte, 100)
			for i := range 10 {
				fmt.Fprintf(conn, "hello %d", i)
				n, err := conn.Read(b)
				if want := fmt.Sprintf("%s hello %d", to, i); err != nil || string(b[:n]) != want {
					t.Fatalf("got %q, %v, want %q", b[:n], err, want)
				}
			}
			if n := g.Counters()[countUDPFlows]; n != 1 {
				t.Errorf("%d flows, want 1", n)
			}
		})
	}
}

// One socket talks to many peers; each answer comes from the peer that was asked.
func TestUDPManyPeers(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, echoHandler)
	conn := g.dialUDP(t, "")
	conn.SetDeadline(time.Now().Add(patience))
	want := map[string]bool{}
	for i := range 50 {
		peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(5000+i))
		if _, err := conn.WriteTo([]byte("hi"), net.UDPAddrFromAddrPort(peer)); err != nil {
			t.Fatal(err)
		}
		want[peer.String()] = true
	}
	b := make([]byte, 100)
	for range 50 {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(string(b[:n]), " hi"); got != from.String() || !want[got] {
			t.Fatalf("answer of %s came from %s", got, from)
		}
		delete(want, from.String())
	}
}

// Sizes from nothing to the largest datagram pass both ways, in fragments where they are larger than the MTU.
func TestUDPSizes(t *testing.T) {
	for _, c := range []struct {
		to    string
		sizes []int
	}{
		{"192.0.2.1:9", []int{0, 1, 1471, 1472, 1473, 1480, 2952, 2953, 9000, 65000, maxUDP4}},
		{"[2001:db8::1]:9", []int{0, 1, 1451, 1452, 1453, 9000, 65000, 65507}},
	} {
		t.Run(c.to, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, plainEcho)
			conn := g.dialUDP(t, c.to)
			conn.SetDeadline(time.Now().Add(patience))
			b := make([]byte, 1<<16)
			for _, size := range c.sizes {
				p := make([]byte, size)
				for i := range p {
					p[i] = byte(rand.Uint32())
				}
				if _, err := conn.Write(p); err != nil {
					t.Fatalf("write %d bytes: %v", size, err)
				}
				n, err := conn.Read(b)
				if err != nil {
					t.Fatalf("read back %d bytes: %v", size, err)
				}
				if n != size || sha256.Sum256(b[:n]) != sha256.Sum256(p) {
					t.Errorf("%d bytes came back as %d or changed", size, n)
				}
			}
		})
	}
}

func TestUDPTooLarge(t *testing.T) {
	conns := make(chan net.Conn, 1)
	g := newGuest(t, Limits{}, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		conn, _ := a.Accept()
		conns <- conn
		<-ctx.Done()
	}))
	g.dialUDP(t, "192.0.2.1:9").Write(nil)
	conn := <-conns
	if _, err := conn.Write(make([]byte, maxUDP4+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("write beyond UDP's limit: %v, want EMSGSIZE", err)
	}
	if _, err := conn.Write(make([]byte, maxUDP4)); err != nil {
		t.Errorf("write of the largest datagram: %v", err)
	}
	if conn.LocalAddr().String() != "192.0.2.1:9" || !strings.HasPrefix(conn.RemoteAddr().String(), "10.77.0.2:") {
		t.Errorf("addresses %s, %s", conn.LocalAddr(), conn.RemoteAddr())
	}
}

func TestUDPReject(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason flow.Reason
		to     string
		want   string
	}{
		{"denied", flow.Denied, "192.0.2.1:9", "3/3 about 192.0.2.1"},
		{"refused", flow.Refused, "192.0.2.1:9", "3/3 about 192.0.2.1"},
		{"no host", flow.HostUnreachable, "192.0.2.1:9", "3/1 about 192.0.2.1"},
		{"no network", flow.NetUnreachable, "192.0.2.1:9", "3/0 about 192.0.2.1"},
		{"denied v6", flow.Denied, "[2001:db8::1]:9", "1/4 about 2001:db8::1"},
		{"no host v6", flow.HostUnreachable, "[2001:db8::1]:9", "1/3 about 2001:db8::1"},
		{"no network v6", flow.NetUnreachable, "[2001:db8::1]:9", "1/0 about 2001:db8::1"},
	} {
		for _, accept := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s accept=%t", c.name, accept), func(t *testing.T) {
				noLeaks(t)
				g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) {
					if accept {
						a.Accept()
					}
					a.Reject(c.reason)
				}))
				seen := g.icmpErrors()
				conn := g.dialUDP(t, c.to)
				conn.Write([]byte("hello"))
				if got := receiveString(t, seen); got != c.want {
					t.Errorf("the sandbox saw %s, want %s", got, c.want)
				}
				if c.reason != flow.Denied && c.reason != flow.Refused {
					return
				}
				// The guest's socket learns of it by the ports that were quoted. (A gonet Read that waits already does not.)
				giveUp := time.Now().Add(patience)
				for err := error(nil); err == nil || !strings.Contains(err.Error(), "refused"); {
					if time.Now().After(giveUp) {
						t.Fatalf("read: %v, want connection refused", err)
					}
					conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
					_, err = conn.Read(make([]byte, 1))
				}
			})
		}
	}
}

// Fragments that overlap are dropped (RFC 5722; RFC 1858 for IPv4), those in any order are put together.
func TestUDPFragments(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 100)
	datagram := udpPacket4(netip.AddrPortFrom(guest4, 4000), netip.MustParseAddrPort("192.0.2.1:9"), payload)
	body := datagram[header.IPv4MinimumSize:]
	for _, c := range []struct {
		name   string
		pieces [][2]int // from, to in the IP payload
		whole  bool
	}{
		{"in order", [][2]int{{0, 800}, {800, 1608}}, true},
		{"in reverse", [][2]int{{1600, 1608}, {800, 1600}, {0, 800}}, true},
		{"twice the same", [][2]int{{0, 800}, {0, 800}, {800, 1608}}, true},
		{"overlapping", [][2]int{{0, 808}, {800, 1608}}, false},
		{"header alone, then over it", [][2]int{{8, 1608}, {0, 16}}, false},
		{"a hole", [][2]int{{0, 800}, {808, 1608}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			got := make(chan string, 10)
			g := newGuest(t, Limits{}, handlerFunc(func(ctx context.Context, a flow.Arrival) {
				conn, _ := a.Accept()
				b := make([]byte, 1<<16)
				n, _ := conn.Read(b)
				got <- string(b[:n])
			}))
			for _, p := range c.pieces {
				g.send(header.IPv4ProtocolNumber, fragment4(datagram, 100, p[0], p[1], p[1] == len(body)))
			}
			// A datagram behind them says when they have been dealt with.
			g.send(header.IPv4ProtocolNumber,
				udpPacket4(netip.AddrPortFrom(guest4, 4001), netip.MustParseAddrPort("192.0.2.1:9"), []byte("end")))
			want := map[string]bool{"end": true}
			if c.whole {
				want[string(payload)] = true
			}
			for range len(want) {
				s := receiveString(t, got)
				if !want[s] {
					t.Errorf("got a datagram of %d bytes", len(s))
				}
				delete(want, s)
			}
			if n := g.Counters()[countUDPFlows]; c.whole != (n == 2) {
				t.Errorf("%d flows", n)
			}
		})
	}
}

// udpPacket4 is a whole IPv4 packet.
func udpPacket4(src, dst netip.AddrPort, payload []byte) []byte {
	pkt := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	u := header.UDP(pkt[header.IPv4MinimumSize:])
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(u))})
	copy(u.Payload(), payload)
	s, d := tcpip.AddrFrom4(src.Addr().As4()), tcpip.AddrFrom4(dst.Addr().As4())
	u.SetChecksum(^u.CalculateChecksum(checksum.Combine(
		header.PseudoHeaderChecksum(header.UDPProtocolNumber, s, d, uint16(len(u))), checksum.Checksum(payload, 0))))
	return finishIP4(pkt, uint8(header.UDPProtocolNumber), s, d)
}

// finishIP4 completes the header of pkt.
func finishIP4(pkt []byte, proto uint8, src, dst tcpip.Address) []byte {
	ip := header.IPv4(pkt)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(pkt)), TTL: 64, Protocol: proto, SrcAddr: src, DstAddr: dst, ID: 1})
	ip.SetChecksum(^ip.CalculateChecksum())
	return pkt
}

// fragment4 is the piece of pkt's payload between from and to.
func fragment4(pkt []byte, id uint16, from, to int, last bool) []byte {
	piece := append([]byte(nil), pkt[:header.IPv4MinimumSize]...)
	piece = append(piece, pkt[header.IPv4MinimumSize+from:header.IPv4MinimumSize+to]...)
	ip := header.IPv4(piece)
	ip.SetTotalLength(uint16(len(piece)))
	ip.SetID(id)
	flags := uint8(header.IPv4FlagMoreFragments)
	if last {
		flags = 0
	}
	ip.SetFlagsFragmentOffset(flags, uint16(from))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return piece
}

// What is no datagram of the sandbox to somebody goes nowhere, and is counted.
func TestUDPDropped(t *testing.T) {
	src, dst := netip.AddrPortFrom(guest4, 4000), netip.MustParseAddrPort("192.0.2.1:9")
	badSum := udpPacket4(src, dst, []byte("x"))
	badSum[len(badSum)-1] ^= 1
	tooLong := udpPacket4(src, dst, []byte("x"))
	header.UDP(tooLong[header.IPv4MinimumSize:]).SetLength(100)
	for _, c := range []struct {
		name   string
		packet []byte
		counts []string // one of them
	}{
		{"bad checksum", badSum, []string{countUDPMalformed}},
		{"length beyond the packet", tooLong, []string{countUDPMalformed, ""}},
		{"broadcast", udpPacket4(src, netip.MustParseAddrPort("255.255.255.255:9"), nil), []string{countUDPMulticast, dropMulticast}},
		{"mdns", udpPacket4(src, netip.MustParseAddrPort("224.0.0.251:5353"), nil), []string{countUDPMulticast, dropMulticast}},
		{"ssdp", udpPacket4(src, netip.MustParseAddrPort("239.255.255.250:1900"), nil), []string{countUDPMulticast, dropMulticast}},
		{"unspecified", udpPacket4(src, netip.MustParseAddrPort("0.0.0.0:9"), nil), []string{countUDPMulticast, ""}},
		{"spoofed source", udpPacket4(netip.MustParseAddrPort("10.77.0.3:1"), dst, nil), []string{countUDPSource, dropSpoofed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			arrived := make(chan string, 10)
			g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) { arrived <- a.Dst.String() }))
			g.send(header.IPv4ProtocolNumber, c.packet)
			g.send(header.IPv4ProtocolNumber, udpPacket4(src, netip.MustParseAddrPort("192.0.2.99:1"), nil))
			if got := receiveString(t, arrived); got != "192.0.2.99:1" {
				t.Errorf("a flow to %s arrived", got)
			}
			for _, name := range c.counts {
				if name == "" || g.Counters()[name] == 1 {
					return
				}
			}
			t.Errorf("not counted: %v", g.Counters())
		})
	}
}

// Datagrams to a socket on the gateway do not become flows.
func TestUDPGatewaySocket(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) { t.Errorf("flow to %s", a.Dst) }))
	pc, err := g.ListenPacket(netip.AddrPortFrom(gateway4, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("dns "), b[:n]...), from)
		}
	})
	conn := g.dialUDP(t, "10.77.0.1:53")
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "question")
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil || string(b[:n]) != "dns question" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	pc.Close()
	wg.Wait()
}

// A tuple whose flow has ended can be used again at once.
func TestUDPPortReuse(t *testing.T) {
	noLeaks(t)
	got := make(chan string)
	g := newGuest(t, Limits{}, handlerFunc(func(_ context.Context, a flow.Arrival) {
		conn, err := a.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		b := make([]byte, 10)
		n, err := conn.Read(b)
		if err != nil {
			t.Error(err)
		}
		conn.Close()
		got <- string(b[:n])
	}))
	conn := g.dialUDP(t, "192.0.2.1:9")
	for _, p := range []string{"one", "two", "three"} {
		io.WriteString(conn, p)
		if s := receiveString(t, got); s != p {
			t.Fatalf("got %q, want %q", s, p)
		}
	}
	if n := g.Counters()[countUDPFlows]; n != 3 {
		t.Errorf("%d flows, want 3", n)
	}
}

// A sandbox that sends to everybody at once leaves nothing behind but counters.
func TestUDPFlood(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{UDPFlows: 64, HalfOpenUDP: 16}, rejecting(flow.Denied))
	src := netip.AddrPortFrom(guest4, 4000)
	for i := range 20_000 {
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 9)
		g.send(header.IPv4ProtocolNumber, udpPacket4(src, dst, nil))
	}
	// The door still works afterwards: as soon as it has read what was sent, and the ICMP limit allows.
	seen := g.icmpErrors()
	conn := g.dialUDP(t, "192.0.2.1:9")
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp); {
		io.WriteString(conn, "x")
		select {
		case s := <-seen:
			if s == "3/3 about 192.0.2.1" {
				return
			}
		case <-time.After(time.Second / 10):
		}
	}
	t.Error("no answer after a flood")
}
