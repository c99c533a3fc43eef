package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/wire"
)

// inLab runs f in a lab whose time is synctest's.
func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newLab()) })
}

// TestQUICFirst: where UDP passes, nothing else is even tried.
func TestQUICFirst(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Second)
		m.wants(t, Connected, session.QUIC)
		if d := l.dialled(); len(d) != 1 || d[0].w.addr != netip.AddrPortFrom(edge4, 443) {
			t.Errorf("dialled %v", d)
		}
		if s := m.State(); s.Edge != "192.0.2.1:443" || s.Session != "fake" || s.RTT != fakeRTT {
			t.Errorf("%+v", s)
		}
		m.end(t)
		if got := m.phases(); !slices.Equal(got, []Phase{Connecting, Connected, Ended}) {
			t.Errorf("reported %v", got)
		}
	})
}

// TestUDPBlocked: WebSocket stands within a second, and stays while UDP is blocked; QUIC is tried every five minutes.
func TestUDPBlocked(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.udpDown = true
		m := l.start(t, 1)
		time.Sleep(time.Second)
		m.wants(t, Connected, session.WebSocket)
		time.Sleep(16 * time.Minute)
		m.wants(t, Connected, session.WebSocket)
		if n := len(l.all()); n != 1 {
			t.Errorf("%d sessions", n)
		}
		tries := 0
		for _, d := range l.dialled()[2:] {
			if d.w.transport != session.QUIC {
				t.Errorf("dialled %v while connected", d.w)
			}
			tries++
		}
		if tries != 2*3 { // with large and with small packets
			t.Errorf("QUIC was tried %d times in 16 minutes", tries)
		}
		m.end(t)
	})
}

// TestReturnToQUIC: once UDP passes again a new session takes over within five minutes, and the old one is not ended before
// its last flow has.
func TestReturnToQUIC(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.udpDown = true
		m := l.start(t, 1)
		time.Sleep(time.Second)
		m.wants(t, Connected, session.WebSocket)
		old := l.last()
		old.mu.Lock()
		old.flows = 1
		old.mu.Unlock()
		l.set(func() { l.udpDown = false })
		time.Sleep(5 * time.Minute)
		m.wants(t, Connected, session.QUIC)
		time.Sleep(2 * time.Hour)
		if err := old.Err(); err != nil {
			t.Fatalf("a flow was dropped: %v", err)
		}
		old.mu.Lock()
		if !old.drained {
			t.Error("the edge was not told to use the other session")
		}
		old.flows = 0
		old.mu.Unlock()
		time.Sleep(time.Second)
		if old.Err() == nil {
			t.Error("the old session stays without a flow")
		}
		m.wants(t, Connected, session.QUIC)
		if slices.Contains(m.phases(), Reconnecting) {
			t.Errorf("reported %v", m.phases())
		}
		m.end(t)
	})
}

// TestBlackhole: what is shorter than the idle timeout costs no session, the rest is noticed within 15 s, and WebSocket, where
// that passes, stands a second later.
func TestBlackhole(t *testing.T) {
	for _, c := range []struct {
		hole     time.Duration
		survives bool
	}{{time.Second, true}, {5 * time.Second, true}, {20 * time.Second, false}} {
		t.Run(c.hole.String(), func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				m := l.start(t, 1)
				time.Sleep(time.Minute)
				first := l.last()
				l.set(func() { l.udpDown, l.tcpDown = true, true })
				time.Sleep(c.hole)
				l.set(func() { l.udpDown, l.tcpDown = false, false })
				if first.Err() == nil != c.survives {
					t.Errorf("the session after %v: %v", c.hole, first.Err())
				}
				time.Sleep(15 * time.Second)
				m.wants(t, Connected, m.State().Transport)
				if n := len(l.all()); n > 2 || c.survives && n != 1 {
					t.Errorf("%d sessions", n)
				}
				m.end(t)
			})
		})
	}
}

// TestBlockedMidSession: UDP that stops passing is noticed within 15 s, WebSocket stands within another 2, and QUIC is back
// within five minutes after it passes again.
func TestBlockedMidSession(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		l.set(func() { l.udpDown = true })
		time.Sleep(17 * time.Second)
		m.wants(t, Connected, session.WebSocket)
		if !slices.Contains(m.phases(), Degraded) {
			t.Errorf("reported %v", m.phases())
		}
		l.set(func() { l.udpDown = false })
		time.Sleep(5 * time.Minute)
		m.wants(t, Connected, session.QUIC)
		m.end(t)
	})
}

// TestNothingPasses: attempts go on for as long as it takes, ever further apart but never more than the cap, and say why.
func TestNothingPasses(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.udpDown, l.tcpDown = true, true
		m := l.start(t, 3)
		time.Sleep(time.Hour)
		synctest.Wait()
		m.mu.Lock()
		longest, retries := time.Duration(0), 0
		for _, s := range m.states {
			if s.Phase == Reconnecting {
				retries++
				longest = max(longest, s.Retry)
				if s.Reason == "" || strings.Contains(s.Reason, "\n") {
					t.Errorf("reason %q", s.Reason)
				}
			}
		}
		m.mu.Unlock()
		if longest > backoffCap || longest < backoffCap/2 || retries < 3600/(30+20) || retries > 3600/10 {
			t.Errorf("%d retries in an hour, the longest pause is %v", retries, longest)
		}
		l.set(func() { l.udpDown = false })
		time.Sleep(backoffCap + attemptTime)
		m.wants(t, Connected, session.QUIC)
		m.end(t)
	})
}

// TestSmallPackets: a path that takes no more than the least is found with the second handshake, and remembered.
func TestSmallPackets(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.udpMTU = smallest
		m := l.start(t, 1, func(c *SupervisorConfig) { c.Transport = session.QUIC })
		time.Sleep(6 * time.Second)
		m.wants(t, Connected, session.QUIC)
		if !l.last().way.small {
			t.Error("with packets that cannot pass")
		}
		l.last().end(tunnel.Errorf(tunnel.Lost, ""))
		time.Sleep(time.Second)
		m.wants(t, Connected, session.QUIC)
		m.end(t)
	})
}

// TestPathShrinks: when large packets get lost from some moment on, while small ones pass, the session is replaced by one that
// sends small ones.
func TestPathShrinks(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		first := l.last()
		l.set(func() { l.udpMTU = smallest })
		first.mu.Lock()
		first.lost += 5
		first.mu.Unlock()
		time.Sleep(30 * time.Second)
		m.wants(t, Connected, session.QUIC)
		if s := l.last(); s == first || !s.way.small {
			t.Errorf("the session is by %+v", s.way)
		}
		m.end(t)
	})
}

// TestLossIsNoReason: losses alone, while large packets pass, change nothing.
func TestLossIsNoReason(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		for range 60 {
			time.Sleep(time.Second)
			s := l.last()
			s.mu.Lock()
			s.lost += 10
			s.mu.Unlock()
		}
		m.wants(t, Connected, session.QUIC)
		if len(l.all()) != 1 || slices.Contains(m.phases(), Degraded) {
			t.Errorf("%d sessions, reported %v", len(l.all()), m.phases())
		}
		m.end(t)
	})
}

// TestNewNetwork: a session moves along to another network; one that cannot is replaced at once, and one on WebSocket, too.
func TestNewNetwork(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		first := l.last()
		l.set(func() { l.source = netip.Addr{} }) // no network for a moment
		time.Sleep(5 * time.Second)
		l.set(func() { l.source = cafe })
		time.Sleep(tick + time.Second)
		m.wants(t, Connected, session.QUIC)
		if first.moves != 1 || len(l.all()) != 1 {
			t.Fatalf("%d moves, %d sessions", first.moves, len(l.all()))
		}
		l.set(func() { l.source, l.deaf = home, true })
		time.Sleep(tick + movePatience + time.Second)
		m.wants(t, Connected, session.QUIC)
		if l.last() == first {
			t.Fatal("no new session")
		}
		l.set(func() { l.udpDown = true })
		time.Sleep(20 * time.Second)
		m.wants(t, Connected, session.WebSocket)
		second := l.last()
		l.set(func() { l.udpDown, l.source = false, cafe })
		time.Sleep(tick + time.Second)
		m.wants(t, Connected, session.QUIC)
		if l.last() == second {
			t.Fatal("the websocket of the old network is still used")
		}
		m.end(t)
	})
}

// TestSleep: after two hours of sleep, which the monotonic clock does not see, the session is tried on a new path, and when the
// edge has forgotten it there is another within seconds: no backoff, no idle timeout.
func TestSleep(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgotten %v", forgotten), func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				m := l.start(t, 1)
				time.Sleep(time.Minute)
				l.set(func() { l.sleep, l.deaf = 2*time.Hour, forgotten })
				time.Sleep(tick + movePatience + time.Second)
				m.wants(t, Connected, session.QUIC)
				if n := len(l.all()); forgotten != (n == 2) || !forgotten && l.last().moves != 1 {
					t.Errorf("%d sessions, %d moves", n, l.last().moves)
				}
				m.end(t)
			})
		})
	}
}

// TestWakeWhileWaiting: a machine that wakes up or gets a network does not wait for its backoff.
func TestWakeWhileWaiting(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		l.set(func() { l.udpDown, l.tcpDown, l.source = true, true, netip.Addr{} })
		time.Sleep(10 * time.Minute)
		l.set(func() { l.udpDown, l.tcpDown, l.source = false, false, home })
		time.Sleep(tick + time.Second)
		m.wants(t, Connected, session.QUIC)
		m.end(t)
	})
}

// TestPermanent: what no attempt would ever change ends Run with its reason, at the first handshake or later.
func TestPermanent(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"rejected", creds.ErrRejected, creds.ErrRejected},
		{"expired", fmt.Errorf("connect: %w", creds.ErrExpired), creds.ErrExpired},
		{"another edge", creds.ErrPin, creds.ErrPin},
		{"revoked", tunnel.Errorf(tunnel.Revoked, ""), creds.ErrRejected},
		{"another version", tunnel.Errorf(tunnel.Version, "speak 2"), tunnel.Errorf(tunnel.Version, "speak 2")},
		{"superseded", tunnel.Errorf(tunnel.Superseded, ""), ErrSuperseded},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				l.refuse = c.err
				m := l.start(t, 1)
				if err := <-m.result; !errors.Is(err, c.want) && err.Error() != "quic to 192.0.2.1:443: "+c.want.Error() && err.Error() != c.want.Error() {
					t.Errorf("Run = %v", err)
				}
				if got := m.phases(); got[len(got)-1] != Ended {
					t.Errorf("reported %v", got)
				}
			})
			inLab(t, func(t *testing.T, l *lab) {
				m := l.start(t, 1)
				time.Sleep(time.Minute)
				l.set(func() { l.refuse = c.err })
				l.last().end(c.err)
				if err := <-m.result; err == nil {
					t.Error("Run ended without an error")
				}
				if time.Since(l.last().began) > 2*time.Minute {
					t.Error("it took long")
				}
			})
		})
	}
}

// TestSuperseded: the older of two processes lets its flows end and says why it stops; it does not fight for the tunnel.
func TestSuperseded(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		s := l.last()
		s.sayDrain(wire.Drain{Code: tunnel.Superseded})
		time.Sleep(time.Minute)
		m.wants(t, Draining, session.QUIC)
		s.end(tunnel.Errorf(tunnel.Lost, "")) // its farewell got lost
		if err := <-m.result; !errors.Is(err, ErrSuperseded) {
			t.Errorf("Run = %v", err)
		}
		if n := len(l.dialled()); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestSupersededByOurselves: an edge that sees our second session ends the first one as superseded, perhaps before we have
// seen the second ourselves.
func TestSupersededByOurselves(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.udpDown = true
		m := l.start(t, 1)
		time.Sleep(time.Second)
		m.wants(t, Connected, session.WebSocket)
		old := l.last()
		l.set(func() { l.udpDown, l.rtt = false, time.Second })
		time.Sleep(5*time.Minute - time.Second)
		for len(l.dialled()) == 2 {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second) // the attempt is under way
		old.sayDrain(wire.Drain{Code: tunnel.Superseded})
		synctest.Wait()
		old.end(tunnel.Errorf(tunnel.Superseded, ""))
		time.Sleep(2 * time.Second)
		m.wants(t, Connected, session.QUIC)
		m.end(t)
	})
}

// TestDrain: the client comes back when the edge has said, not before, and not all clients at one time; the flows of the old
// session go on until then.
func TestDrain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		s := l.last()
		said := time.Now()
		s.sayDrain(wire.Drain{Code: tunnel.Draining, ReconnectAfter: 10 * time.Second})
		time.Sleep(5 * time.Second)
		m.wants(t, Draining, session.QUIC)
		s.end(tunnel.Errorf(tunnel.Draining, "")) // the edge has gone
		time.Sleep(4 * time.Second)
		if n := len(l.dialled()); n != 1 {
			t.Errorf("%d attempts before the time", n)
		}
		time.Sleep(10 * time.Second)
		m.wants(t, Connected, session.QUIC)
		if d := l.dialled()[1].at.Sub(said); d < 10*time.Second || d > 15*time.Second {
			t.Errorf("came back after %v", d)
		}
		m.end(t)
	})
}

// TestGiveUp: an edge that has said for how long to try is believed.
func TestGiveUp(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		l.set(func() { l.udpDown, l.tcpDown = true, true })
		l.last().sayDrain(wire.Drain{Code: tunnel.Draining, ReconnectAfter: time.Second, GiveUpAfter: time.Minute})
		l.last().end(tunnel.Errorf(tunnel.Draining, ""))
		began := time.Now()
		if err := <-m.result; err == nil {
			t.Error("no error")
		}
		if d := time.Since(began); d < time.Minute || d > 3*time.Minute {
			t.Errorf("gave up after %v", d)
		}
	})
}

// TestQuit: the flows end first.
func TestQuit(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(time.Minute)
		s := l.last()
		s.mu.Lock()
		s.flows = 1
		s.mu.Unlock()
		m.Quit()
		m.Quit()
		time.Sleep(5 * time.Second)
		m.wants(t, Draining, session.QUIC)
		s.mu.Lock()
		s.flows = 0
		s.mu.Unlock()
		if err := <-m.result; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestRenewal: the credentials are renewed at half of their life, in band, again and again; when that fails it is said, and
// tried again.
func TestRenewal(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		m := l.start(t, 1)
		time.Sleep(11 * time.Hour)
		if m.creds.installed != 0 {
			t.Errorf("%d renewals too early", m.creds.installed)
		}
		time.Sleep(26 * time.Hour)
		if m.creds.installed != 3 {
			t.Errorf("%d renewals in 37 hours", m.creds.installed)
		}
		if n := len(l.all()); n != 1 {
			t.Errorf("%d sessions: a renewal should cost none", n)
		}
		m.end(t)
	})
}

// TestNoName: where the name cannot be resolved, a proxy may still know it: WebSocket is tried.
func TestNoName(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.noName = errors.New("no such host")
		m := l.start(t, 1)
		time.Sleep(time.Second)
		m.wants(t, Connected, session.WebSocket)
		m.end(t)
	})
}

// TestThunderingHerd: a thousand clients lose their edge at one moment, and come back spread out, at the first attempt and,
// while the edge stays away, more and more.
func TestThunderingHerd(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const clients = 1000
		var herd []*laptop
		for i := range clients {
			herd = append(herd, l.start(t, uint64(i)))
		}
		time.Sleep(time.Minute)
		crash := time.Now()
		l.set(func() { l.dials = nil; l.refuse = errors.New("connection refused") })
		for _, s := range l.all() {
			s.end(tunnel.Errorf(tunnel.Lost, "the other side has started again"))
		}
		time.Sleep(2 * time.Minute)
		most := func(from, to, width time.Duration) (most int) {
			buckets := map[time.Duration]int{}
			for _, d := range l.dialled() {
				if at := d.at.Sub(crash); at >= from && at < to && d.w.transport == session.QUIC {
					buckets[at/width]++
					most = max(most, buckets[at/width])
				}
			}
			return most
		}
		if n := most(0, backoffBase, 50*time.Millisecond); n > clients/5 {
			t.Errorf("%d of %d clients came back in the same 50 ms", n, clients)
		}
		if n := most(time.Minute, 2*time.Minute, time.Second); n > clients/8 {
			t.Errorf("%d attempts of %d clients in one second of the second minute", n, clients)
		}
		l.set(func() { l.refuse = nil })
		time.Sleep(backoffCap + time.Second)
		for _, m := range herd {
			m.wants(t, Connected, m.State().Transport)
			m.stop()
			<-m.result
		}
	})
}

// TestBackoff: pauses are anything up to the bound, which doubles up to the cap.
func TestBackoff(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const n = 10000
	for round, bound := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		var quarters [4]int
		for range n {
			b := backoff{random: random.Float64}
			var wait time.Duration
			for range round + 1 {
				wait = b.next()
			}
			if wait < 0 || wait >= bound {
				t.Fatalf("%v in round %d", wait, round)
			}
			quarters[4*wait/bound]++
		}
		for i, q := range quarters {
			if q < n/4*9/10 || q > n/4*11/10 {
				t.Errorf("round %d: %d of %d pauses are in quarter %d", round, q, n, i)
			}
		}
	}
	b := backoff{random: func() float64 { return 0.999 }}
	for range 20 {
		b.next()
	}
	if b.reset(); b.next() > backoffBase {
		t.Error("reset does nothing")
	}
}

// TestWays: two addresses of QUIC, of both families where there are, then WebSocket; or what was asked for.
func TestWays(t *testing.T) {
	other4 := netip.MustParseAddr("192.0.2.2")
	for _, c := range []struct {
		addrs []netip.Addr
		only  string
		want  []string
	}{
		{[]netip.Addr{edge4}, "", []string{"quic to 192.0.2.1:443", "websocket"}},
		{[]netip.Addr{edge6, edge4}, "", []string{"quic to [2001:db8::1]:443", "quic to 192.0.2.1:443", "websocket"}},
		{[]netip.Addr{edge4, other4, edge6}, "", []string{"quic to 192.0.2.1:443", "quic to [2001:db8::1]:443", "websocket"}},
		{[]netip.Addr{edge4, other4, other4}, "", []string{"quic to 192.0.2.1:443", "quic to 192.0.2.2:443", "websocket"}},
		{[]netip.Addr{edge4}, session.QUIC, []string{"quic to 192.0.2.1:443"}},
		{[]netip.Addr{edge4}, session.WebSocket, []string{"websocket"}},
		{nil, "", []string{"websocket"}},
	} {
		var got []string
		for _, w := range ways(c.addrs, 443, c.only, false) {
			got = append(got, w.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v %q: %v, want %v", c.addrs, c.only, got, c.want)
		}
	}
}
