package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// recorder is a sink that keeps what it gets, by the way it came.
type recorder struct {
	mu    sync.Mutex
	got   []string // "short PAYLOAD" or "long PAYLOAD"
	take  func(n int) int
	fail  error
	ended chan error
}

// TryBatch implements flow.BatchSink.
func (r *recorder) TryBatch(datagrams [][]byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	n := len(datagrams)
	if r.take != nil {
		n = r.take(n)
	}
	for _, b := range datagrams[:n] {
		r.got = append(r.got, "short "+string(b))
	}
	return n, nil
}

// WriteBatch implements flow.BatchSink.
func (r *recorder) WriteBatch(datagrams [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range datagrams {
		r.got = append(r.got, "long "+string(b))
	}
	return nil
}

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// forwarders accepts every flow and forwards each to a recorder of its own.
type forwarders struct {
	mu    sync.Mutex
	by    map[string]*recorder // by destination
	fresh func() *recorder
}

func (f *forwarders) Handle(_ context.Context, a flow.Arrival) {
	r := &recorder{}
	if f.fresh != nil {
		r = f.fresh()
	}
	r.ended = make(chan error, 1)
	conn, err := a.Accept()
	if err != nil {
		return
	}
	f.mu.Lock()
	if f.by == nil {
		f.by = map[string]*recorder{}
	}
	f.by[a.Dst.String()] = r
	f.mu.Unlock()
	r.ended <- conn.(flow.BatchConn).Forward(r)
}

// begun starts the flow to dst and returns its recorder once it forwards.
func (f *forwarders) begun(t *testing.T, w *wire, dst string) *recorder {
	t.Helper()
	w.send(vnetHdr{}, udpFrameTo(dst, "first"))
	var r *recorder
	eventually(t, "the flow forwards", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		r = f.by[dst]
		return r != nil && len(r.list()) == 1
	})
	return r
}

// udpFrameTo is a datagram of the guest's port 9 with its checksum.
func udpFrameTo(dst, payload string) []byte {
	to := netip.MustParseAddrPort(dst)
	u := append(datagram(9, to.Port(), 0), payload...)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	if to.Addr().Is6() {
		u = withSum(guest6.String(), to.Addr().String(), header.UDPProtocolNumber, u, 6)
		return l2(header.IPv6ProtocolNumber, packet6(guest6.String(), to.Addr().String(), 17, u))
	}
	u = withSum(guest4.String(), to.Addr().String(), header.UDPProtocolNumber, u, 6)
	return l2(header.IPv4ProtocolNumber, packet4(guest4.String(), to.Addr().String(), 17, nil, u))
}

// resum4 sets the header checksum of an IPv4 frame anew.
func resum4(frame []byte) []byte {
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

const (
	burst4 = "203.0.113.7:9"
	burst6 = "[2001:db8::7]:9"
)

// Which frames of a flow under way take the short way, and that the others fare as they always did: the short way is no way
// around anything.
func TestShortWay(t *testing.T) {
	plain4, plain6 := udpFrameTo(burst4, "hello"), udpFrameTo(burst6, "hello")
	to4 := netip.MustParseAddrPort(burst4).Addr().String()
	udp := bytes.Clone(plain4[34:])
	spoofed := packet4("10.77.0.3", to4, 17, nil, withSum("10.77.0.3", to4, 17, bytes.Clone(udp), 6))
	uso := func(flags uint8) vnetHdr {
		return vnetHdr{flags: flags, gsoType: vnetGSOUDPL4, hdrLen: 42, gsoSize: 2, csumStart: 34, csumOffset: 6}
	}
	partial := vnetHdr{flags: vnetNeedsCsum, csumStart: 34, csumOffset: 6}
	for _, c := range []struct {
		name    string
		link    linkKind
		hdr     vnetHdr
		frames  [][]byte
		want    []string
		counter string
	}{
		{name: "a datagram", frames: [][]byte{plain4}, want: []string{"short hello"}},
		{name: "an empty one", frames: [][]byte{udpFrameTo(burst4, "")}, want: []string{"short "}},
		{name: "IPv6", frames: [][]byte{plain6}, want: []string{"short hello"}},
		{name: "many", frames: [][]byte{plain4, udpFrameTo(burst4, "again"), plain4}, want: []string{"short hello", "short again", "short hello"}},
		{name: "a partial checksum", link: vnetLink, hdr: partial, frames: [][]byte{patched(plain4, 40, 1)}, want: []string{"short hello"}},
		{name: "a partial checksum elsewhere", link: vnetLink, hdr: vnetHdr{flags: vnetNeedsCsum, csumStart: 34, csumOffset: 4}, frames: [][]byte{plain4}, want: []string{"long hello"}},
		{name: "a wrong checksum", link: plainLink, frames: [][]byte{patched(plain4, 45, 'x')}, counter: countUDPMalformed},
		{name: "a wrong checksum over IPv6", link: plainLink, frames: [][]byte{patched(plain6, 65, 'x')}, counter: countUDPMalformed},
		{name: "no checksum", frames: [][]byte{patched(patched(plain4, 40, 0), 41, 0)}, want: []string{"long hello"}},
		{name: "a wrong header checksum", link: plainLink, frames: [][]byte{patched(plain4, 24, plain4[24]+1)}},
		{name: "a header checksum that the device vouches for", link: vnetLink, frames: [][]byte{patched(plain4, 24, plain4[24]+1)}, want: []string{"long hello"}},
		{name: "IPv4 options", frames: [][]byte{l2(header.IPv4ProtocolNumber, packet4(guest4.String(), to4, 17, []byte{1, 1, 1, 0}, udp))}, want: []string{"long hello"}},
		{name: "a source route", frames: [][]byte{l2(header.IPv4ProtocolNumber, packet4(guest4.String(), to4, 17, []byte{131, 3, 4, 0}, udp))}, counter: dropSourceRoute},
		{name: "IPv6 options", frames: [][]byte{l2(header.IPv6ProtocolNumber, packet6(guest6.String(), "2001:db8::7", 60, ext6(17, 1, plain6[54:])))}, want: []string{"long hello"}},
		{name: "a spoofed source", frames: [][]byte{l2(header.IPv4ProtocolNumber, spoofed)}, counter: dropSpoofed},
		{name: "another hardware address", frames: [][]byte{patched(plain4, 5, 0x55)}, counter: dropForeignMAC},
		{name: "a broadcast hardware address", frames: [][]byte{append([]byte{255, 255, 255, 255, 255, 255}, plain4[6:]...)}, want: []string{"short hello"}},
		{name: "a TTL of 0", frames: [][]byte{resum4(patched(plain4, 22, 0))}, want: []string{"long hello"}},
		{name: "fragments", frames: [][]byte{frag4(17, 5, 0, true, udp[:8]), frag4(17, 5, 8, false, udp[8:])}, want: []string{"long hello"}},
		{name: "a first fragment alone", frames: [][]byte{frag4(17, 6, 0, true, udp[:8])}},
		{name: "longer than its packet", frames: [][]byte{patched(plain4, 39, 200)}, counter: countUDPMalformed},
		{name: "shorter than its header", frames: [][]byte{patched(plain4, 39, 7)}, counter: countUDPMalformed},
		{name: "a frame with a trailer", frames: [][]byte{append(bytes.Clone(plain4), "trailer"...)}, want: []string{"short hello"}},
		{name: "a super-datagram", link: vnetLink, hdr: uso(vnetNeedsCsum), frames: [][]byte{plain4}, want: []string{"short he", "short ll", "short o"}},
		{name: "a super-datagram with a whole checksum", link: vnetLink, hdr: uso(0), frames: [][]byte{plain4}, want: []string{"long he", "long ll", "long o"}},
		{name: "a super-datagram of too many", link: vnetLink, hdr: vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOUDPL4, hdrLen: 42, gsoSize: 1, csumStart: 34, csumOffset: 6},
			frames: [][]byte{udpFrameTo(burst4, strings.Repeat("x", 129))}, counter: dropUSO},
		{name: "a super-datagram of TCP's type", link: vnetLink, hdr: vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOTCPv4, hdrLen: 42, gsoSize: 2, csumStart: 34, csumOffset: 6},
			frames: [][]byte{plain4}, want: []string{"long hello"}},
	} {
		for _, kind := range []struct {
			name string
			kind linkKind
			vnet int
		}{{"plain", plainLink, 0}, {"vnet", vnetLink, vnetHdrLen}} {
			if c.link != anyLink && c.link != kind.kind {
				continue
			}
			t.Run(kind.name+"/"+c.name, func(t *testing.T) {
				noLeaks(t)
				f := &forwarders{}
				w := newWire(t, Config{Link: Link{VnetHdr: kind.vnet}}, f)
				four, six := f.begun(t, w, burst4), f.begun(t, w, burst6)
				for _, frame := range c.frames {
					w.send(c.hdr, frame)
				}
				w.sync()
				w.sync() // whose frame is behind the burst
				got := func() []string { return append(four.list()[1:], six.list()[1:]...) }
				eventually(t, fmt.Sprintf("%q", c.want), func() bool { return len(got()) >= len(c.want) })
				if !slices.Equal(got(), c.want) {
					t.Errorf("the sink got %q, want %q", got(), c.want)
				}
				if c.counter != "" && w.counters.get(c.counter) != 1 {
					t.Errorf("%s is %d; %v", c.counter, w.counters.get(c.counter), w.Counters())
				}
				w.close()
			})
		}
	}
}

// A flow keeps its order, whichever way each of its datagrams takes and however many the sink takes at a time.
func TestShortWayOrder(t *testing.T) {
	const flows, rounds = 2 * maxBurstFlows, 400
	random := rand.New(rand.NewPCG(3, 4))
	var mu sync.Mutex
	f := &forwarders{fresh: func() *recorder {
		return &recorder{take: func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			if random.IntN(3) == 0 {
				return random.IntN(n + 1)
			}
			return n
		}}
	}}
	w := newWire(t, Config{}, f)
	var recorders []*recorder
	for i := range flows {
		recorders = append(recorders, f.begun(t, w, fmt.Sprintf("203.0.113.7:%d", 1000+i)))
	}
	sent := make([]int, flows)
	for range rounds {
		i := rand.IntN(flows)
		dst := fmt.Sprintf("203.0.113.7:%d", 1000+i)
		for range 1 + rand.IntN(5) {
			payload := fmt.Sprintf("%d %s", sent[i], strings.Repeat("x", rand.IntN(1400)))
			frame := udpFrameTo(dst, payload)
			switch rand.IntN(5) {
			case 0: // by way of gVisor, as it has options
				frame = l2(header.IPv4ProtocolNumber, packet4(guest4.String(), "203.0.113.7", 17, []byte{1, 1, 1, 0}, frame[34:]))
			case 1: // as two fragments
				cut := 8 + len(frame[42:])/16*8
				w.send(vnetHdr{}, frag4(17, uint16(sent[i]), 0, true, frame[34:][:cut]))
				frame = frag4(17, uint16(sent[i]), cut, false, frame[34:][cut:])
			}
			w.send(vnetHdr{}, frame)
			sent[i]++
		}
		w.sync()
	}
	for i, r := range recorders {
		eventually(t, "all have come", func() bool { return len(r.list()) == 1+sent[i] })
		for k, s := range r.list()[1:] {
			var n int
			if fmt.Sscanf(s[strings.Index(s, " ")+1:], "%d", &n); n != k {
				t.Fatalf("flow %d: datagram %d came as the %dth", i, n, k)
			}
		}
	}
	if n := w.counters.get(countUDPShort); n == 0 {
		t.Error("none took the short way")
	}
}

// An error of the sink ends Forward, and what comes next is a new flow.
func TestShortWayEnds(t *testing.T) {
	f := &forwarders{}
	w := newWire(t, Config{}, f)
	r := f.begun(t, w, burst4)
	refused := errors.New("refused")
	r.mu.Lock()
	r.fail = refused
	r.mu.Unlock()
	w.send(vnetHdr{}, udpFrameTo(burst4, "x"))
	if err := <-r.ended; !errors.Is(err, refused) {
		t.Errorf("Forward = %v", err)
	}
	eventually(t, "the flow is gone", func() bool { return w.counters.get(countUDPFlows) == 1 })
	eventually(t, "a new flow begins", func() bool {
		w.send(vnetHdr{}, udpFrameTo(burst4, "first"))
		w.sync()
		return w.counters.get(countUDPFlows) == 2
	})
}

// A burst holds no more than its bounds, and nothing of it is lost.
func TestBurstBounds(t *testing.T) {
	f := &forwarders{}
	w := newWire(t, Config{Link: Link{VnetHdr: vnetHdrLen}}, f)
	r := f.begun(t, w, burst4)
	hdr := vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOUDPL4, hdrLen: 42, gsoSize: 1000, csumStart: 34, csumOffset: 6}
	const frames = 3 * maxBurstFrames
	for range frames {
		w.send(hdr, udpFrameTo(burst4, strings.Repeat("y", 60_500)))
	}
	w.sync()
	eventually(t, "all have come", func() bool { return len(r.list()) == 1+frames*61 })
	w.close() // so that the read loop has ended
	for _, x := range w.link.burst.boxes {
		if cap(x.memory) != maxBurstBytes {
			t.Errorf("a box of %d bytes", cap(x.memory))
		}
	}
}

// FuzzParseUDP holds the parser of the short way to the library's reading of the same packet.
func FuzzParseUDP(f *testing.F) {
	for _, dst := range []string{burst4, burst6} {
		f.Add(udpFrameTo(dst, "hello"), false, []byte{})
		f.Add(udpFrameTo(dst, ""), true, []byte{1, 5, 42, 0, 2, 0, 34, 0, 6, 0})
	}
	f.Add(frag4(17, 5, 0, true, datagram(9, 9, 8)), false, []byte{})
	f.Fuzz(func(t *testing.T, frame []byte, vnet bool, hdr []byte) {
		var h vnetHdr
		if vnet && len(hdr) >= vnetHdrLen {
			h = parseVnetHdr(hdr)
		}
		cfg := Config{Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6, GatewayMAC: gatewayMAC}
		filter := newFilter(cfg)
		if verdict, _ := filter.check(frame[:min(len(frame), maxHeaders)], len(frame)); verdict != deliver || vnet && !h.valid(len(frame)) {
			return
		}
		u, ok := parseUDP(frame[:min(len(frame), maxHeaders)], vnet, h)
		if !ok {
			return
		}
		payload := frame[u.start:u.end]
		key := u.tuple.key()
		ip := frame[header.EthernetMinimumSize:]
		var udp header.UDP
		if header.IPVersion(ip) == header.IPv4Version {
			v4 := header.IPv4(ip)
			if !v4.IsValid(len(ip)) || !v4.IsChecksumValid() || v4.More() || v4.FragmentOffset() != 0 || v4.Protocol() != 17 || len(v4.Options()) > 0 || v4.TTL() == 0 {
				t.Fatalf("not a plain packet: %x", ip)
			}
			udp = header.UDP(v4.Payload())
		} else {
			v6 := header.IPv6(ip)
			if !v6.IsValid(len(ip)) || v6.NextHeader() != 17 || v6.HopLimit() == 0 {
				t.Fatalf("not a plain packet: %x", ip)
			}
			udp = header.UDP(v6.Payload())
		}
		src, dst := key.src.Addr().AsSlice(), key.dst.Addr().AsSlice()
		if key.src.Addr() != guest4 && key.src.Addr() != guest6 || !bytes.Contains(ip[:min(len(ip), 40)], append(src, dst...)) ||
			key.src.Port() != udp.SourcePort() || key.dst.Port() != udp.DestinationPort() {
			t.Fatalf("%v of %x", key, ip)
		}
		if int(udp.Length()) != len(udp) || !bytes.Equal(udp.Payload(), payload) {
			t.Fatalf("payload %x of %x", payload, udp)
		}
		if u.unsummed {
			sum := header.PseudoHeaderChecksum(17, addressOf(key.src), addressOf(key.dst), uint16(len(udp)))
			if want := udp.IsChecksumValid(addressOf(key.src), addressOf(key.dst), checksum.Checksum(payload, 0)); u.validSum(udp, payload) != want {
				t.Fatalf("validSum is %t, sum %x of %x", !want, sum, udp)
			}
		}
	})
}

// A deadline that passes while the read loop has the sink is not missed by Forward, which could not look then.
func TestForwardDeadlineDuringOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, nil)
		key := testKey(1000, 9)
		conn := tt.accepted(t, key)
		r := &recorder{}
		r.take = func(n int) int {
			conn.SetReadDeadline(time.Now())
			time.Sleep(time.Second) // Forward looks, and has to wait for the end of this
			return n
		}
		ended := make(chan error, 1)
		go func() { ended <- conn.(*datagramFlow).Forward(r) }()
		synctest.Wait()
		tt.deliverBatch(tt.flows[key], [][]byte{[]byte("a")}, nil)
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errIdle) {
			t.Errorf("Forward = %v, want the timeout of the deadline", err)
		}
	})
}
