package session

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestShares: turns go to whoever has sent less, a share that cannot send holds nobody up, and none saves up credit.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFairness()
		take := func(s *share) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return s.take(1000, time.Now()) > 0
		}
		done := func(s *share) {
			f.mu.Lock()
			defer f.mu.Unlock()
			s.done(0, time.Now())
		}
		a, b := f.join("a"), f.join("b")
		if a.begin(time.Now()) {
			t.Error("contended by itself")
		}
		sent := func(s *share, most int) (octets int) {
			for octets < most && take(s) {
				octets += 1000
			}
			return octets
		}
		if n := sent(a, 10_000_000); n != 10_000_000 {
			t.Errorf("alone a sent %d octets", n)
		}
		if !b.begin(time.Now()) {
			t.Error("not contended by two")
		}
		if n := sent(a, 10_000_000); n != 0 {
			t.Errorf("beside b, a sent %d octets", n)
		}
		if n := sent(b, 10_000_000); n < 2*fairLead || n > 2*fairLead+2000 {
			t.Errorf("b has saved up %d octets", n)
		}
		for range maxRefusals { // a does not send: its receiver does not let it
			if n := sent(b, 1000); n != 0 {
				t.Errorf("b sent %d octets before a", n)
			}
			b.pause()
		}
		if n := sent(b, 10_000_000); n != 10_000_000 {
			t.Errorf("beside one that is stalled, b sent %d octets", n)
		}
		if n := sent(a, 10_000_000); n < 2*fairLead || n > 2*fairLead+1000 {
			t.Errorf("once it goes on, a sent %d octets", n)
		}
		woken := make(chan time.Duration)
		go func() {
			start := time.Now()
			a.pause()
			woken <- time.Since(start)
		}()
		synctest.Wait()
		time.Sleep(fairProbe / 2)
		sent(b, fairLead)
		if took := <-woken; took != fairProbe/2 {
			t.Errorf("a was woken after %v", took)
		}
		done(a)
		done(b)
		a.leave()
		b.leave()
		if len(f.shares) != 0 {
			t.Errorf("%d shares are left", len(f.shares))
		}
	})
}

// received counts what comes for each sandbox.
type received struct {
	slow   string // the sandbox whose receiver is slow
	sinks  sync.WaitGroup
	mu     sync.Mutex
	octets map[string]int
}

func (r *received) dial(_ context.Context, o tunnel.Open) (net.Conn, error) {
	a, b := net.Pipe()
	r.sinks.Go(func() {
		buf := make([]byte, 64<<10)
		if o.Sandbox == r.slow {
			buf = buf[:1000]
		}
		for {
			n, err := b.Read(buf)
			if err != nil {
				b.Close()
				return
			}
			r.mu.Lock()
			r.octets[o.Sandbox] += n
			r.mu.Unlock()
			if o.Sandbox == r.slow {
				time.Sleep(time.Duration(n) * 100 * time.Microsecond)
			}
		}
	})
	return a, nil
}

func (r *received) of(sandbox string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.octets[sandbox]
}

// TestSandboxesShare: on a path that is the bottleneck, a sandbox with one flow gets its share beside one with many flows and
// with a flood of datagrams, however fast the path is; and one whose receiver is slow holds nobody up.
func TestSandboxesShare(t *testing.T) {
	for _, c := range []struct {
		name         string
		rate         float64 // octets per second
		flows, flood int
		slow         bool // the modest one's receiver takes 10 kB per second
		least, most  float64
	}{
		{"many flows at 10 Mbit/s", 1.25e6, 50, 0, false, 0.4, 0.6},
		{"many flows at 100 Mbit/s", 12.5e6, 20, 0, false, 0.4, 0.6},
		{"a flood of datagrams at 10 Mbit/s", 1.25e6, 0, 1, false, 0.3, 0.9},
		{"a flood of datagrams at 100 Mbit/s", 12.5e6, 0, 1, false, 0.3, 0.9},
		{"flows and a flood at 100 Mbit/s", 12.5e6, 20, 1, false, 0.22, 0.6},
		{"beside a slow receiver", 12.5e6, 4, 0, true, 0, 0.02},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.rate > 2e6 {
				t.Skip("simulates many packets: not with -short")
			}
			synctest.Test(t, func(t *testing.T) {
				r := &received{octets: map[string]int{}}
				if c.slow {
					r.slow = "modest"
				}
				edge, client, p := simulated(t)
				p.mu.Lock()
				p.rate = c.rate
				p.mu.Unlock()
				e, cl := joined(t, edge, client, handler{dial: r.dial})
				var all sync.WaitGroup
				defer func() {
					e.CloseWith(tunnel.OK, "")
					all.Wait()
					cl.CloseWith(tunnel.OK, "")
					r.sinks.Wait()
				}()
				for range c.flows {
					pump(t, e, &all, "greedy")
				}
				for range c.flood {
					flood(t, e, &all, "greedy")
				}
				time.Sleep(time.Second)
				start := time.Now()
				pump(t, e, &all, "modest")
				if took := time.Since(start); took > 3*time.Second { // one that is lost on the path is sent again
					t.Errorf("opening a flow took %v", took)
				}
				time.Sleep(2 * time.Second)
				modest, greedy := r.of("modest"), r.of("greedy")
				time.Sleep(3 * time.Second)
				modest, greedy = r.of("modest")-modest, r.of("greedy")-greedy
				if got := float64(modest) / float64(modest+greedy); got < c.least || got > c.most {
					t.Errorf("the modest sandbox got %.2f", got)
				}
				if used := float64(modest+greedy) / (3 * c.rate); used < 0.7 {
					t.Errorf("%.2f of the path was used", used)
				}
			})
		})
	}
}

// TestDatagramsBesideTalk: a flow that says little now and then is heard at once beside a flood, and does not slow it down.
func TestDatagramsBesideTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all sync.WaitGroup
		var got atomic.Int64
		edge, client, p := simulated(t)
		p.mu.Lock()
		p.rate = 12.5e6
		p.mu.Unlock()
		e, cl := joined(t, edge, client, handler{dial: func(_ context.Context, o tunnel.Open) (net.Conn, error) {
			a, b := net.Pipe()
			all.Go(func() {
				defer b.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := b.Read(buf)
					if err != nil {
						return
					}
					if o.Network == "tcp" {
						b.Write(buf[:n])
					} else {
						got.Add(int64(n))
					}
				}
			})
			return a, nil
		}})
		flood(t, e, &all, "greedy")
		s, err := e.OpenStream(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: "modest"}, Network: "tcp", Addr: somewhere.Addr})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		got.Store(0)
		slow := 0
		for range 100 {
			start, b := time.Now(), make([]byte, 1000)
			s.Write(b)
			if _, err := io.ReadFull(s, b); err != nil {
				t.Fatal(err)
			}
			if time.Since(start) > 300*time.Millisecond {
				slow++
			}
			time.Sleep(50*time.Millisecond - time.Since(start)%(50*time.Millisecond))
		}
		if slow > 5 {
			t.Errorf("%d of 100 answers took long", slow)
		}
		if used := float64(got.Load()) / (5 * 12.5e6); used < 0.7 {
			t.Errorf("the flood used %.2f of the path", used)
		}
		e.CloseWith(tunnel.OK, "")
		cl.CloseWith(tunnel.OK, "")
		all.Wait()
	})
}

// pump writes to a flow until it ends.
func pump(t *testing.T, e *Edge, all *sync.WaitGroup, sandbox string) {
	t.Helper()
	s, err := e.OpenStream(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: sandbox}, Network: "tcp", Addr: somewhere.Addr})
	if err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		defer s.Close()
		for piece := make([]byte, 32<<10); err == nil; {
			_, err = s.Write(piece)
		}
	})
}

// flood sends twenty thousand datagrams per second until its flow ends.
func flood(t *testing.T, e *Edge, all *sync.WaitGroup, sandbox string) {
	t.Helper()
	d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: sandbox}, Network: "udp", Addr: somewhere.Addr})
	if err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		defer d.Close()
		for piece := make([]byte, 1100); e.Err() == nil; time.Sleep(time.Millisecond) {
			for range 20 {
				d.Send(piece)
			}
		}
	})
}
