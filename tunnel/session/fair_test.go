package session

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestShares: turns go to whoever has sent less, a share that cannot send holds nobody up, and none saves up credit.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFairness()
		a, b := f.join("a", false), f.join("b", false)
		if a.begin(time.Now()) {
			t.Error("contended by itself")
		}
		sent := func(s *share, most int) (octets int) {
			for octets < most && s.take(1000, time.Now()) > 0 {
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
		start := time.Now()
		b.pause() // a does not send: its receiver does not let it
		if took := time.Since(start); took != maxPatience || a.patience != maxPatience/2 {
			t.Errorf("b waited %v for a, and would now for %v", took, a.patience)
		}
		if n := sent(b, 10_000_000); n != 10_000_000 {
			t.Errorf("beside one that is stalled, b sent %d octets", n)
		}
		if n := sent(a, 10_000_000); n < 2*fairLead || n > 2*fairLead+1000 {
			t.Errorf("once it goes on, a sent %d octets", n)
		}
		done := make(chan time.Duration)
		go func() {
			start := time.Now()
			a.pause()
			done <- time.Since(start)
		}()
		synctest.Wait()
		time.Sleep(minPatience)
		sent(b, fairLead)
		if took := <-done; took != minPatience {
			t.Errorf("a was woken after %v", took)
		}
		a.end(0, 0, time.Now())
		b.end(0, 0, time.Now())
		a.leave()
		b.leave()
		if len(f.shares) != 0 {
			t.Errorf("%d shares are left", len(f.shares))
		}
	})
}

// received counts what comes for each sandbox.
type received struct {
	mu     sync.Mutex
	octets map[string]int
}

func (r *received) dial(_ context.Context, o tunnel.Open) (net.Conn, error) {
	a, b := net.Pipe()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := b.Read(buf)
			if err != nil {
				b.Close()
				return
			}
			r.mu.Lock()
			r.octets[o.Sandbox] += n
			r.mu.Unlock()
		}
	}()
	return a, nil
}

func (r *received) of(sandbox string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.octets[sandbox]
}

// TestSandboxesShare: a sandbox with one flow has its half beside one with many, and beside a flood of datagrams.
func TestSandboxesShare(t *testing.T) {
	for _, c := range []struct {
		name         string
		flows, flood int
	}{{"fifty flows", 50, 0}, {"a flood of datagrams", 0, 1}, {"both", 20, 1}} {
		t.Run(c.name, func(t *testing.T) {
			r := &received{octets: map[string]int{}}
			e, _ := ends(t, handler{dial: r.dial})
			stop := make(chan struct{})
			var all sync.WaitGroup
			run := func(sandbox string) {
				s, err := e.OpenStream(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: sandbox}, Network: "tcp", Addr: somewhere.Addr})
				if err != nil {
					t.Error(err)
					return
				}
				all.Go(func() {
					defer s.Close()
					piece := make([]byte, 32<<10)
					for {
						select {
						case <-stop:
							return
						default:
						}
						if _, err := s.Write(piece); err != nil {
							return
						}
					}
				})
			}
			for range c.flows {
				run("greedy")
			}
			for range c.flood {
				d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: "greedy"}, Network: "udp", Addr: somewhere.Addr})
				if err != nil {
					t.Fatal(err)
				}
				all.Go(func() {
					defer d.Close()
					piece := [][]byte{make([]byte, 1200), make([]byte, 1200), make([]byte, 1200), make([]byte, 1200)}
					for {
						select {
						case <-stop:
							return
						case <-time.After(10 * time.Microsecond):
						}
						d.(tunnel.Batched).SendBatch(piece)
					}
				})
			}
			run("modest")
			until := func(octets int) (modest, greedy int) {
				for end := time.Now().Add(30 * time.Second); r.of("modest") < octets && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				return r.of("modest"), r.of("greedy")
			}
			modest0, greedy0 := until(1 << 20)
			modest, greedy := until(41 << 20)
			modest, greedy = modest-modest0, greedy-greedy0
			close(stop)
			all.Wait()
			// With a flow and a flood the greedy one has two shares of three.
			if modest < 39<<20 || float64(modest) < 0.25*float64(modest+greedy) {
				t.Errorf("the modest sandbox got %d octets, the greedy one %d", modest, greedy)
			}
			t.Logf("modest %d MiB, greedy %d MiB", modest>>20, greedy>>20)
		})
	}
}

