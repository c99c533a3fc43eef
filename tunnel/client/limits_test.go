package client

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// TestLimits: each bound says no, is counted, gives room again, and is told of as what it is.
func TestLimits(t *testing.T) {
	at := udpServer(t)
	open := func(t *testing.T, m *machine, i int) (tunnelConn, error) {
		c, err := m.Dial(t.Context(), opening(fmt.Sprintf("127.0.0.%d:%d udp flow=%d", i+1, at.Port(), i)))
		if err != nil {
			return nil, err
		}
		return c.(tunnelConn), nil
	}
	for _, c := range []struct {
		name    string
		limits  Limits
		allowed int // flows that pass at once
		counter func(Counters) uint64
		relief  func(*machine, []tunnelConn)
	}{
		{"flows", Limits{Flows: 3}, 3, func(c Counters) uint64 { return c.Flows }, func(_ *machine, open []tunnelConn) { open[0].Close() }},
		{"dials per second", Limits{DialsPerSecond: 4}, 4 * dialBurst, func(c Counters) uint64 { return c.DialsPerSecond }, func(*machine, []tunnelConn) { time.Sleep(time.Second / 4) }},
		{"hosts", Limits{Hosts: 5}, 5, func(c Counters) uint64 { return c.Hosts }, func(*machine, []tunnelConn) { time.Sleep(time.Minute) }},
		{"dials", Limits{Dials: 1}, 0, func(c Counters) uint64 { return c.Dials }, func(m *machine, _ []tunnelConn) { m.limits.dials.Store(0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t, Rules{Allow: []string{fmt.Sprintf("127.0.0.0/8:%d", at.Port())}}, nil, func(h *HandlerConfig) { h.Limits = c.limits })
				if c.allowed == 0 {
					m.limits.dials.Store(1)
				}
				var conns []tunnelConn
				for i := range c.allowed {
					conn, err := open(t, m, i)
					if err != nil {
						t.Fatalf("flow %d: %v", i, err)
					}
					conns = append(conns, conn)
				}
				if _, err := open(t, m, c.allowed); tunnel.CodeOf(err) != tunnel.Limit {
					t.Fatalf("one too many: %v", err)
				}
				if n := c.counter(m.Counters()); n != 1 {
					t.Errorf("counted %d times", n)
				}
				last := of[*event.Connect](m.log)
				if d := last[len(last)-1]; d.Verdict != "deny" || d.Reason != "limit" {
					t.Errorf("told: %+v", d)
				}
				c.relief(m, conns)
				if _, err := open(t, m, c.allowed); err != nil {
					t.Errorf("with room again: %v", err)
				}
			})
		})
	}
}

type tunnelConn = tunnel.Upstream

// TestBytesPerDay: the flow that uses them up is ended, no other begins, and the next day is another day.
func TestBytesPerDay(t *testing.T) {
	at := udpServer(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, Rules{Allow: []string{at.String()}}, nil, func(h *HandlerConfig) { h.Limits.BytesPerDay = 1000 })
		dial := func() (tunnelConn, error) {
			c, err := m.Dial(t.Context(), opening(at.String()+" udp flow="))
			if err != nil {
				return nil, err
			}
			return c.(tunnelConn), nil
		}
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		c.Carried(400, 600)
		if len(m.Flows()) != 1 {
			t.Fatal("ended too early")
		}
		c.Carried(0, 1)
		if _, err := c.Read(nil); tunnel.CodeOf(err) != tunnel.Limit || len(m.Flows()) != 0 {
			t.Errorf("over the bound: %v", err)
		}
		if _, err := dial(); tunnel.CodeOf(err) != tunnel.Limit {
			t.Errorf("another flow: %v", err)
		}
		if m.Counters().BytesPerDay == 0 {
			t.Error("not counted")
		}
		time.Sleep(24 * time.Hour)
		if _, err := dial(); err != nil {
			t.Errorf("the next day: %v", err)
		}
	})
}

// TestQueryLimits: the same for questions.
func TestQueryLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, Rules{Allow: []string{"db.example"}}, names("db.example 10.0.1.50"), func(h *HandlerConfig) { h.Limits.QueriesPerSecond = 2 })
		wire, err := new(dns.Msg).SetQuestion("db.example.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		ask := func() error {
			_, err := m.Query(t.Context(), tunnel.Query{Message: wire})
			return err
		}
		for range 2 {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(); tunnel.CodeOf(err) != tunnel.Limit || m.Counters().QueriesPerSecond != 1 {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(time.Second)
		m.limits.queries.Store(defaultQueries)
		if err := ask(); tunnel.CodeOf(err) != tunnel.Limit || m.Counters().Queries != 1 {
			t.Errorf("one too many under way: %v", err)
		}
		told := of[*event.DNSQuery](m.log)
		if len(told) != 4 || told[3].Reason != "limit" || told[3].Verdict != "deny" {
			t.Errorf("told: %+v", told)
		}
	})
}

// TestScanGuard: who is denied at more than twenty destinations within ten seconds is paused, nobody else is, and not for ever.
func TestScanGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort("10.9.9.9:5432")
		m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
		try := func(app string, i int) error {
			_, err := m.Dial(t.Context(), opening(fmt.Sprintf("10.0.0.%d:%d app=%s", i/100+1, i%100+1, app)))
			return err
		}
		text := func(err error) string {
			if tunnel.CodeOf(err) != tunnel.Denied {
				t.Fatalf("not denied: %v", err)
			}
			return err.Error()
		}
		for range 100 {
			if got := text(try("stubborn", 0)); got != text(try("stubborn", 0)) {
				t.Fatal("one closed door, again and again, is no scan")
			}
			time.Sleep(50 * time.Millisecond)
		}
		for i := range scanTargets + 1 {
			try("slow", i)
			time.Sleep(scanWindow/scanTargets + time.Millisecond)
		}
		time.Sleep(scanWindow)
		for i := range scanTargets {
			try("scanner", i)
		}
		if m.scans.paused("scanner") != 0 || m.scans.paused("slow") != 0 {
			t.Fatal("paused too early")
		}
		try("scanner", scanTargets)
		if m.scans.paused("scanner") == 0 || m.scans.paused("honest") != 0 {
			t.Fatal("not paused, or more than who scanned")
		}
		if got := text(func() error {
			_, err := m.Dial(t.Context(), opening(at.String()+" app=scanner"))
			return err
		}()); got != "tunnel: denied by the client: the app looked for open ports and is paused for 1m0s" {
			t.Errorf("told %q", got)
		}
		if alerts := of[*event.Alert](m.log); len(alerts) != 1 || alerts[0].What != "port-scan" {
			t.Errorf("alerts: %+v", alerts)
		}
		if m.Counters().Scans != 1 {
			t.Error("not counted")
		}
		time.Sleep(scanPause)
		if m.scans.paused("scanner") != 0 {
			t.Error("paused for ever")
		}
		for i := range scanTargets + 1 {
			try("scanner", i)
		}
		m.Resume()
		if m.scans.paused("scanner") != 0 {
			t.Error("the user's word does not count")
		}
	})
}

// TestScanUnderManyNames: an edge that gives each try another app's name pauses all of them, and has no more memory for it.
func TestScanUnderManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScans()
		for i := range scanAll + 1 {
			s.missed(fmt.Sprintf("app%d", i), "tcp", netip.AddrPortFrom(own, uint16(i+1)))
		}
		if s.paused("anybody") == 0 {
			t.Error("nobody is paused")
		}
		for i := range 3 * maxScanners {
			s.missed(fmt.Sprintf("more%d", i), "tcp", netip.AddrPortFrom(own, 1))
		}
		if len(s.apps) > maxScanners {
			t.Errorf("%d are watched", len(s.apps))
		}
		if s.paused("anybody") == 0 {
			t.Error("the pause was forgotten")
		}
	})
}

// TestPause: what is new is refused, what is open goes on.
func TestPause(t *testing.T) {
	at := udpServer(t)
	m := newMachine(t, Rules{Allow: []string{at.String(), "db.example"}}, names("db.example 10.0.1.50"))
	c, err := m.Dial(t.Context(), opening(at.String()+" udp"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.Pause(true)
	if _, err := m.Dial(t.Context(), opening(at.String()+" udp")); tunnel.CodeOf(err) != tunnel.Limit {
		t.Errorf("while paused: %v", err)
	}
	if r := m.ask(t, "db.example", dns.TypeA); r.Rcode != dns.RcodeRefused || m.names.count() != 0 {
		t.Errorf("a question while paused: %v", r)
	}
	exchange(t, c, "still here")
	m.Pause(false)
	if r := m.ask(t, "db.example", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("afterwards: %v", r)
	}
}

// TestEvidenceIsBounded: an edge that makes up sandboxes makes us forget, and look up again, and no more.
func TestEvidenceIsBounded(t *testing.T) {
	e := newEvidence()
	for i := range maxEvidence + 100 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		e.learn("default", fmt.Sprint(i), answer{name: "db.example", addrs: []record{{a, 0}}})
	}
	if n := e.oldest.Len(); n != maxEvidence || len(e.by) != maxEvidence || e.evicted != 100 {
		t.Errorf("%d bindings, %d places, %d forgotten", n, len(e.by), e.evicted)
	}
	for i := range 2 * maxNamesPerAddr {
		e.learn("default", "one", answer{name: fmt.Sprintf("n%d.example", i), addrs: []record{{own, 0}}})
	}
	if got, _ := e.names("default", "one", own); len(got) != maxNamesPerAddr {
		t.Errorf("%d names of one address", len(got))
	}
	if e.oldest.Len() != maxEvidence {
		t.Errorf("%d bindings", e.oldest.Len())
	}
}
