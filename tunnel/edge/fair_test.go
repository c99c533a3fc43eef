package edge

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// pipe is a connection that carries so many octets in a second, and shares them out by stream as QUIC does: each write gets a
// packet in its turn.
type pipe struct {
	mu     sync.Mutex
	queue  []*pipeWrite
	closed bool
}

type pipeWrite struct {
	left int
	done chan struct{}
}

const pipePacket, pipeRate = 1400, 100 << 20

func (p *pipe) write(b []byte) (int, error) {
	w := &pipeWrite{len(b), make(chan struct{})}
	p.mu.Lock()
	p.queue = append(p.queue, w)
	p.mu.Unlock()
	<-w.done
	return len(b), nil
}

// run sends for a while: 8 packets a tick.
func (p *pipe) run(d time.Duration) {
	const burst = 8
	const tick = burst * pipePacket * time.Second / pipeRate
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(tick) {
		p.mu.Lock()
		for i := 0; i < burst && len(p.queue) > 0; i++ {
			w := p.queue[0]
			p.queue = p.queue[1:]
			if w.left -= pipePacket; w.left > 0 {
				p.queue = append(p.queue, w)
			} else {
				close(w.done)
			}
		}
		p.mu.Unlock()
	}
}

// TestFairShare: of two sandboxes that write as much as they can, one by a single flow and one by 200, each gets its half, give
// or take; one that writes little gets that at once; and one whose flows stand still keeps nobody waiting.
func TestFairShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Edge{}
		p := &pipe{}
		var stop atomic.Bool
		var work sync.WaitGroup
		flow := func(s *Sandbox, sent *atomic.Int64, size int, pause time.Duration, write func([]byte) (int, error)) {
			by := tunnel.Identity{Space: "s", Client: "laptop"}
			f := &fairStream{&fakeStream{by: by, write: write}, s.turnsTo(by)}
			b := make([]byte, size)
			work.Go(func() {
				for !stop.Load() {
					f.Write(b)
					sent.Add(int64(size))
					time.Sleep(pause)
				}
			})
		}
		var greedy, modest, little atomic.Int64
		one, two, three, four := e.Sandbox(owner("s")), e.Sandbox(owner("s")), e.Sandbox(owner("s")), e.Sandbox(owner("s"))
		for range 200 {
			flow(one, &greedy, 64<<10, 100*time.Microsecond, p.write)
		}
		flow(two, &modest, 64<<10, 100*time.Microsecond, p.write)
		flow(three, &little, 100, 10*time.Millisecond, p.write)
		stuck := make(chan struct{})
		for range 20 {
			flow(four, new(atomic.Int64), 64<<10, 0, func(b []byte) (int, error) { <-stuck; return 0, nil })
		}
		const seconds = 2
		p.run(seconds * time.Second)
		g, m, l := greedy.Load(), modest.Load(), little.Load()
		stop.Store(true)
		close(stuck)
		p.run(time.Minute)
		work.Wait()
		if total := g + m; total < seconds*pipeRate*8/10 {
			t.Errorf("%d octets of %d were sent", total, seconds*pipeRate)
		}
		if share := float64(m) / float64(g+m); share < 0.2 {
			t.Errorf("one flow against 200 had %.0f %% (%d of %d)", 100*share, m, g+m)
		} else {
			t.Logf("one flow against 200 had %.0f %%", 100*share)
		}
		if l < 100*100*seconds/2 {
			t.Errorf("who writes little had %d octets", l)
		}
	})
}

// TestUDPShares: a sandbox that floods has what is left, one that begins has its half at once.
func TestUDPShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Edge{}
		flood, other := e.Sandbox(owner("s")), e.Sandbox(owner("s"))
		datagrams := make([][]byte, 64)
		for i := range datagrams {
			datagrams[i] = make([]byte, 1200)
		}
		second := func(boxes ...*Sandbox) []int {
			sent := make([]int, len(boxes))
			for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
				for i, s := range boxes {
					sent[i] += s.udp.allow(datagrams)
				}
			}
			return sent
		}
		second(flood) // the burst
		cost := 1200 + udpOverhead
		if alone := second(flood)[0]; alone < 100_000 || alone > udpPerSecond/cost+10 {
			t.Errorf("alone it sent %d", alone)
		}
		second(flood, other)
		both := second(flood, other)
		for _, n := range both {
			if n < udpPerSecond/cost*45/100 || n > udpPerSecond/cost*55/100 {
				t.Errorf("together they sent %v", both)
			}
		}
		if n := flood.udp.allow([][]byte{nil}); n > 1 {
			t.Error("an empty datagram costs nothing")
		}
	})
}

// TestHandshakeLimits: one address that hammers is refused, another one is not.
func TestHandshakeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakeLimits()
		from := func(a string, n int) (ok int) {
			for range n {
				if h.allow(netip.MustParseAddr(a)) {
					ok++
				}
			}
			return ok
		}
		if n := from("192.0.2.1", 1000); n != ofOneBurst {
			t.Errorf("%d of 1000 were let through", n)
		}
		if n := from("2001:db8::1", 1000) + from("2001:db8::ffff", 1000); n != ofOneBurst {
			t.Errorf("%d of 2000 of one IPv6 network were let through", n)
		}
		if n := from("192.0.2.2", 1); n != 1 {
			t.Error("another address was refused")
		}
		for i := range 2 * maxSources {
			h.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
		if len(h.sources) > maxSources {
			t.Errorf("%d addresses are remembered", len(h.sources))
		}
		time.Sleep(time.Second)
		if n := from("192.0.2.1", 1000); n > ofOneBurst {
			t.Errorf("%d in the second after", n)
		}
	})
}
