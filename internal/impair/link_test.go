package impair

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// end is a link's end in memory: what is put in is read by the link, what the link writes is kept with its time.
type end struct {
	in   chan []byte
	once sync.Once
	gone chan struct{}

	mu  sync.Mutex
	got []arrival
}

type arrival struct {
	packet []byte
	at     time.Time
}

func newEnd() *end { return &end{in: make(chan []byte), gone: make(chan struct{})} }

func (e *end) Read(b []byte) (int, error) {
	select {
	case p := <-e.in:
		return copy(b, p), nil
	case <-e.gone:
		return 0, io.EOF
	}
}

func (e *end) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, arrival{slices.Clone(b), time.Now()})
	return len(b), nil
}

func (e *end) Close() error {
	e.once.Do(func() { close(e.gone) })
	return nil
}

func (e *end) arrivals() []arrival {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// numbers are the payloads of what has arrived.
func (e *end) numbers() []int {
	var list []int
	for _, a := range e.arrivals() {
		p, _ := parse(a.packet)
		list = append(list, int(binary.BigEndian.Uint32(a.packet[p.transport+8:])))
	}
	return list
}

var (
	inside  = netip.MustParseAddrPort("192.168.1.2:5000")
	server  = netip.MustParseAddrPort("203.0.113.10:4433")
	outside = netip.MustParseAddr("198.51.100.1")
	inside6 = netip.MustParseAddrPort("[fd00::2]:5000")
	server6 = netip.MustParseAddrPort("[2001:db8::10]:4433")
)

// datagram makes a packet of that many octets, with right checksums, whose payload begins with number.
func datagram(src, dst netip.AddrPort, length, number int) []byte {
	var ip gopacket.SerializableLayer
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	headers := header4 + 8
	if src.Addr().Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Flags: layers.IPv4DontFragment, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		udp.SetNetworkLayerForChecksum(v4)
		ip = v4
	} else {
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		udp.SetNetworkLayerForChecksum(v6)
		ip, headers = v6, header6+8
	}
	payload := make([]byte, max(length-headers, 4))
	binary.BigEndian.PutUint32(payload, uint32(number))
	return serialize(ip, udp, gopacket.Payload(payload))
}

// segment makes a TCP segment.
func segment(src, dst netip.AddrPort) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), SYN: true, Window: 100}
	tcp.SetNetworkLayerForChecksum(ip)
	return serialize(ip, tcp, gopacket.Payload("0123"))
}

func serialize(list ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// again computes the checksums of a packet anew and reports whether they were right.
func again(t *testing.T, raw []byte) bool {
	t.Helper()
	first := layers.LayerTypeIPv4
	if raw[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(raw, first, gopacket.Default)
	var list []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			c.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		s, ok := l.(gopacket.SerializableLayer)
		if !ok {
			t.Fatalf("cannot write a %v", l.LayerType())
		}
		list = append(list, s)
	}
	return slices.Equal(serialize(list...), raw)
}

// TestSettings: what arrives of a thousand packets, a millisecond apart, and when.
func TestSettings(t *testing.T) {
	const n = 1000
	inOrder := func(got []int) bool { return slices.IsSorted(got) }
	for _, c := range []struct {
		name  string
		s     Settings
		check func(got []int, took []time.Duration, c Counts) bool
	}{
		{"perfect", Settings{}, func(got []int, took []time.Duration, c Counts) bool {
			return len(got) == n && inOrder(got) && slices.Max(took) == 0 && c.Sent == n && c.Octets == n*200
		}},
		{"loss", Settings{Loss: 0.05}, func(got []int, _ []time.Duration, c Counts) bool {
			return len(got) > n*92/100 && len(got) < n*98/100 && inOrder(got) && c.Lost == uint64(n-len(got))
		}},
		{"everything is lost", Settings{Loss: 1}, func(got []int, _ []time.Duration, _ Counts) bool { return len(got) == 0 }},
		{"delay", Settings{Delay: 150 * time.Millisecond}, func(got []int, took []time.Duration, _ Counts) bool {
			return len(got) == n && inOrder(got) && slices.Max(took) == 150*time.Millisecond && slices.Min(took) == 150*time.Millisecond
		}},
		{"jitter", Settings{Delay: 10 * time.Millisecond, Jitter: 40 * time.Millisecond}, func(got []int, took []time.Duration, _ Counts) bool {
			return len(got) == n && inOrder(got) && slices.Min(took) >= 10*time.Millisecond && slices.Max(took) <= 50*time.Millisecond && slices.Max(took) > 40*time.Millisecond
		}},
		{"reorder", Settings{Delay: time.Millisecond, Reorder: 0.1, Lag: 20 * time.Millisecond}, func(got []int, took []time.Duration, c Counts) bool {
			return len(got) == n && !inOrder(got) && slices.Max(took) == 21*time.Millisecond && c.Reordered > n/20 && c.Reordered < n/5
		}},
		{"reorder on a fast network", Settings{Reorder: 0.1}, func(got []int, took []time.Duration, _ Counts) bool {
			return len(got) == n && !inOrder(got) && slices.Max(took) == defaultLag
		}},
		{"duplicates", Settings{Duplicate: 0.1}, func(got []int, _ []time.Duration, c Counts) bool {
			return len(got) == n+int(c.Duplicated) && inOrder(got) && c.Duplicated > n/20 && c.Duplicated < n/5
		}},
		{"rate", Settings{Rate: 800_000, Queue: 1 << 20}, func(got []int, took []time.Duration, _ Counts) bool { // two milliseconds for each
			return len(got) == n && inOrder(got) && slices.Max(took) > 900*time.Millisecond && slices.Max(took) < 1100*time.Millisecond
		}},
		{"rate, and no room", Settings{Rate: 800_000, Queue: 2000}, func(got []int, took []time.Duration, c Counts) bool {
			return inOrder(got) && c.Full > n/3 && len(got)+int(c.Full) == n && slices.Max(took) <= 20*time.Millisecond
		}},
		{"all at once", Settings{Loss: 0.01, Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: 0.01, Duplicate: 0.01, Rate: 10_000_000}, func(got []int, _ []time.Duration, c Counts) bool {
			return len(got) == n-int(c.Lost)+int(c.Duplicated) && c.Lost > 0 && c.Reordered > 0 && c.Duplicated > 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(), newEnd()
				l := New(Config{A: a, B: b, Seed: 1})
				l.Set(c.s, Settings{Blackhole: true})
				sent := map[int]time.Time{}
				for i := range n {
					sent[i] = time.Now()
					a.in <- datagram(inside, server, 200, i)
					time.Sleep(time.Millisecond)
				}
				time.Sleep(10 * time.Second)
				var took []time.Duration
				got := b.numbers()
				for i, at := range b.arrivals() {
					took = append(took, at.at.Sub(sent[got[i]]))
				}
				if counts := l.Counts(Up); !c.check(got, took, counts) {
					t.Errorf("%d arrived, %+v", len(got), counts)
				}
				l.Close()
				l.Close()
			})
		})
	}
}

// TestSameSeedSameFate: a run can be repeated, and what befalls a packet does not hang on what befalls the others.
func TestSameSeedSameFate(t *testing.T) {
	lost := func(seed uint64, s Settings) (list []int) {
		synctest.Test(t, func(t *testing.T) {
			a, b := newEnd(), newEnd()
			l := New(Config{A: a, B: b, Seed: seed})
			l.SetBoth(s)
			for i := range 500 {
				a.in <- datagram(inside, server, 100, i)
			}
			time.Sleep(time.Second)
			got := b.numbers()
			for i := range 500 {
				if !slices.Contains(got, i) {
					list = append(list, i)
				}
			}
			l.Close()
		})
		return list
	}
	one := lost(7, Settings{Loss: 0.1})
	if !slices.Equal(one, lost(7, Settings{Loss: 0.1, Delay: time.Millisecond, Duplicate: 0.5})) {
		t.Error("the same seed lost other packets")
	}
	if slices.Equal(one, lost(8, Settings{Loss: 0.1})) {
		t.Error("another seed lost the same packets")
	}
}

// TestChangesAtRunTime: a hole opens and closes, UDP is blocked and TCP is not, and packets on their way keep their order
// when the delay goes.
func TestChangesAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(), newEnd()
		var seen int
		l := New(Config{A: a, B: b, Watch: func(d Direction, _ []byte) {
			if d == Up {
				seen++
			}
		}})
		defer l.Close()
		next := 0
		send := func(s Settings) {
			l.SetBoth(s)
			a.in <- datagram(inside, server, 100, next)
			a.in <- segment(inside, server)
			next++
			synctest.Wait()
		}
		count := func() int { return len(b.arrivals()) }
		if send(Settings{}); count() != 2 {
			t.Fatalf("%d arrived", count())
		}
		if send(Settings{Blackhole: true}); count() != 2 || l.Counts(Up).Blocked != 2 {
			t.Errorf("black hole: %d arrived, %+v", count(), l.Counts(Up))
		}
		if send(Settings{BlockUDP: true}); count() != 3 || b.arrivals()[2].packet[9] != protocolTCP {
			t.Errorf("UDP blocked: %d arrived", count())
		}
		send(Settings{Delay: time.Second})
		if send(Settings{}); count() != 3 {
			t.Errorf("overtook what is on its way: %d arrived", count())
		}
		time.Sleep(time.Second)
		if synctest.Wait(); count() != 7 || seen != next*2 {
			t.Errorf("at the end: %d arrived, %d were seen of %d", count(), seen, next*2)
		}
		a.in <- []byte("no packet")
		if synctest.Wait(); l.Counts(Up).Odd != 1 {
			t.Errorf("odd: %+v", l.Counts(Up))
		}
	})
}

// TestMTU: the sender of a packet that is too long is told so, unless the link is silent.
func TestMTU(t *testing.T) {
	for _, c := range []struct {
		name     string
		src, dst netip.AddrPort
		silent   bool
		length   int
		arrives  bool
	}{
		{"it fits", inside, server, false, 1300, true},
		{"one too many", inside, server, false, 1301, false},
		{"silent", inside, server, true, 1400, false},
		{"IPv6", inside6, server6, false, 1400, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(), newEnd()
				l := New(Config{A: a, B: b})
				defer l.Close()
				l.SetBoth(Settings{MTU: 1300, Silent: c.silent})
				sent := datagram(c.src, c.dst, c.length, 1)
				a.in <- sent
				synctest.Wait()
				told := a.arrivals()
				if (len(b.arrivals()) == 1) != c.arrives || (len(told) == 1) != (!c.arrives && !c.silent) {
					t.Fatalf("%d arrived, %d came back", len(b.arrivals()), len(told))
				}
				if len(told) == 0 {
					return
				}
				if !again(t, told[0].packet) {
					t.Errorf("checksum of % x", told[0].packet)
				}
				p, _ := parse(told[0].packet)
				body := told[0].packet[p.transport:]
				kind, mtu := []byte{3, 4}, uint32(binary.BigEndian.Uint16(body[6:]))
				if !p.four {
					kind, mtu = []byte{2, 0}, binary.BigEndian.Uint32(body[4:])
				}
				if p.dst != c.src.Addr() || !slices.Equal(body[:2], kind) || mtu != 1300 || !slices.Equal(body[8:8+p.transport+8], sent[:p.transport+8]) {
					t.Errorf("told % x", told[0].packet)
				}
			})
		})
	}
}

// TestNAT: addresses and ports are translated there and back; strangers, and old ports after a rebinding, are not let in.
func TestNAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(), newEnd()
		l := New(Config{A: a, B: b, Outside: outside})
		defer l.Close()
		ends := func(e *end) (src, dst netip.AddrPort) {
			synctest.Wait()
			list := e.arrivals()
			last := list[len(list)-1].packet
			if !again(t, last) {
				t.Errorf("checksum of % x", last)
			}
			p, _ := parse(last)
			ports := p.ports()
			return netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(ports)), netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(ports[2:]))
		}
		up := func(raw []byte) netip.AddrPort {
			a.in <- raw
			src, dst := ends(b)
			if src.Addr() != outside || dst != server {
				t.Errorf("up %v to %v", src, dst)
			}
			return src
		}
		first := up(datagram(inside, server, 100, 1))
		if up(datagram(inside, server, 1400, 2)) != first {
			t.Error("another port for the same flow")
		}
		overTCP := up(segment(inside, server))
		b.in <- datagram(server, first, 300, 3)
		if src, dst := ends(a); src != server || dst != inside {
			t.Errorf("down %v to %v", src, dst)
		}
		b.in <- datagram(netip.MustParseAddrPort("203.0.113.66:1"), first, 100, 4)
		b.in <- datagram(server, netip.AddrPortFrom(outside, 1), 100, 5)
		if synctest.Wait(); len(a.arrivals()) != 1 || l.Counts(Down).Stranger != 2 {
			t.Errorf("strangers: %d came in, %+v", len(a.arrivals()), l.Counts(Down))
		}
		if n := l.Rebind(); n != 1 {
			t.Errorf("%d were rebound", n)
		}
		second := up(datagram(inside, server, 100, 6))
		if second == first || up(segment(inside, server)) != overTCP {
			t.Error("the port is the old one, or the connection's is a new one")
		}
		b.in <- datagram(server, first, 100, 7)
		b.in <- datagram(server, second, 100, 8)
		if synctest.Wait(); len(a.arrivals()) != 2 {
			t.Errorf("after the rebinding %d came in", len(a.arrivals()))
		}
	})
}

// TestNATIsFull: without a free port nothing goes out, and nobody else's is taken.
func TestNATIsFull(t *testing.T) {
	n := newNAT(outside)
	seen := map[uint16]bool{}
	for i := range lastPort - firstPort {
		b := n.bind(inner{protocolUDP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)})
		if b == nil || seen[b.port] {
			t.Fatalf("after %d: %v", i, b)
		}
		seen[b.port] = true
	}
	if b := n.bind(inner{protocolUDP, inside}); b != nil {
		t.Errorf("one more: %v", b)
	}
	if b := n.bind(inner{protocolTCP, inside}); b == nil {
		t.Error("TCP has no port")
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(datagram(inside, server, 100, 1), 50)
	f.Add(datagram(inside6, server6, 100, 1), 50)
	f.Add(segment(inside, server), 20)
	f.Fuzz(func(t *testing.T, raw []byte, mtu int) {
		p, ok := parse(raw)
		if !ok {
			return
		}
		if m := p.tooBig(outside, mtu); m != nil {
			if back, ok := parse(m); !ok || back.dst != p.src {
				t.Fatalf("% x", m)
			}
		}
		n := newNAT(outside)
		if n.translate(Up, p) {
			if q, _ := parse(raw); q.src != outside {
				t.Fatalf("% x", raw)
			}
		}
		n.translate(Down, p)
	})
}

// BenchmarkLink is the work for one packet, without the two calls of a TUN.
func BenchmarkLink(b *testing.B) {
	raw := datagram(inside, server, 1500, 1)
	for name, s := range map[string]Settings{"perfect": {}, "delayed": {Delay: time.Millisecond, Loss: 0.001}} {
		b.Run(name, func(b *testing.B) {
			ends := [2]*discard{{gone: make(chan struct{})}, {gone: make(chan struct{})}}
			l := New(Config{A: ends[0], B: ends[1], Outside: outside})
			defer l.Close()
			w := l.ways[Up]
			w.settings.Store(&s)
			b.SetBytes(int64(len(raw)))
			packet := slices.Clone(raw)
			for b.Loop() {
				copy(packet, raw)
				l.packet(w, packet)
			}
		})
	}
}

// discard is an end that nothing comes from.
type discard struct {
	once sync.Once
	gone chan struct{}
}

func (d *discard) Read([]byte) (int, error)    { <-d.gone; return 0, net.ErrClosed }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) Close() error {
	d.once.Do(func() { close(d.gone) })
	return nil
}

func ExampleLink() {
	a, b := newEnd(), newEnd()
	l := New(Config{A: a, B: b, Seed: 1})
	defer l.Close()
	l.Set(Settings{Loss: 0.01, Delay: 25 * time.Millisecond}, Settings{Delay: 25 * time.Millisecond, Rate: 10_000_000})
	fmt.Println(l.Counts(Up).Sent)
	// Output: 0
}
