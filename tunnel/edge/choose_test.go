package edge

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// fakeSession is a client's session without a client.
type fakeSession struct {
	who    tunnel.Identity
	routes []wire.Route
	done   chan struct{}

	open func(ctx context.Context) error // nil opens
	deaf bool                            // it answers no ping
}

func newFake(space, client string, routes ...wire.Route) *fakeSession {
	return &fakeSession{who: tunnel.Identity{Space: space, Client: client}, routes: routes, done: make(chan struct{})}
}

func (f *fakeSession) member() *member { return &member{Session: f, who: f.who} }

func (f *fakeSession) Identity() tunnel.Identity               { return f.who }
func (f *fakeSession) Hello() wire.Hello                       { return wire.Hello{} }
func (f *fakeSession) Routes() []wire.Route                    { return f.routes }
func (f *fakeSession) Stats() tunnel.Stats                     { return tunnel.Stats{} }
func (f *fakeSession) Done() <-chan struct{}                   { return f.done }
func (f *fakeSession) Err() error                              { return tunnel.Errorf(tunnel.Lost, "") }
func (f *fakeSession) Drain(context.Context, wire.Drain) error { return nil }
func (f *fakeSession) CloseWith(tunnel.Code, string)           {}
func (f *fakeSession) Ping(ctx context.Context) (time.Duration, error) {
	if !f.deaf {
		return 0, nil
	}
	select {
	case <-ctx.Done():
	case <-f.done:
	}
	return 0, tunnel.Errorf(tunnel.Lost, "")
}

func (f *fakeSession) OpenStream(ctx context.Context, _ tunnel.Open) (tunnel.Stream, error) {
	if f.open != nil {
		if err := f.open(ctx); err != nil {
			return nil, err
		}
	}
	return &fakeStream{by: f.who}, nil
}

func (f *fakeSession) OpenDatagrams(context.Context, tunnel.Open) (tunnel.Datagrams, error) {
	return nil, tunnel.Errorf(tunnel.Internal, "")
}

func (f *fakeSession) Query(ctx context.Context, _ tunnel.Query) ([]byte, tunnel.Identity, error) {
	if f.open != nil {
		if err := f.open(ctx); err != nil {
			return nil, tunnel.Identity{}, err
		}
	}
	return nil, f.who, nil
}

type fakeStream struct {
	tunnel.Stream
	by tunnel.Identity
}

func (s *fakeStream) By() tunnel.Identity { return s.by }
func (s *fakeStream) Abort(tunnel.Code)   {}
func (s *fakeStream) Close() error        { return nil }

// fakeEdge has sessions and no listener.
func fakeEdge(t *testing.T, sessions ...*fakeSession) *Edge {
	t.Helper()
	e := &Edge{}
	for _, s := range sessions {
		if _, err := e.registry.join(s.member()); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func suffix(s string, ports ...wire.Ports) wire.Route { return wire.Route{Suffix: s, Ports: ports} }
func prefix(s string) wire.Route                      { return wire.Route{Prefix: netip.MustParsePrefix(s)} }

// TestChoice: the most specific route wins, names before addresses; what nobody advertises may go to anybody.
func TestChoice(t *testing.T) {
	e := fakeEdge(t,
		newFake("s", "vpn", suffix("corp.example"), prefix("10.0.0.0/8"), prefix("fd00::/8")),
		newFake("s", "db", suffix("db.corp.example", wire.Ports{First: 5432, Last: 5432}), prefix("10.1.0.0/16")),
		newFake("s", "host", prefix("10.1.2.3/32")),
		newFake("other", "db", suffix("db.corp.example")),
	)
	for _, c := range []struct {
		name string
		to   string
		want string
	}{
		{"www.corp.example", "10.9.9.9:443", "vpn"},
		{"db.corp.example", "10.9.9.9:5432", "db"},
		{"a.db.corp.example", "10.9.9.9:5432", "db"},
		{"db.corp.example", "10.9.9.9:443", "vpn"}, // another port
		{"notdb.corp.example", "10.9.9.9:5432", "vpn"},
		{"", "10.9.9.9:1", "vpn"},
		{"", "10.1.9.9:1", "db"},
		{"", "10.1.2.3:1", "host"},
		{"www.corp.example", "10.1.2.3:1", "vpn"}, // the name is why it is dialled
		{"", "[fd00::1]:1", "vpn"},
		{"", "[::ffff:10.1.2.3]:1", "host"},
	} {
		var names []string
		if c.name != "" {
			names = []string{c.name}
		}
		s, err := e.Sandbox(owner("s")).OpenStream(t.Context(), tunnel.Open{Addr: netip.MustParseAddrPort(c.to), Names: names})
		if err != nil || s.By().Client != c.want {
			t.Errorf("%s %s went to %v, %v; want %s", c.name, c.to, s, err, c.want)
		}
	}
	for name, want := range map[string]string{"x.corp.example": "vpn", "DB.corp.example": "db"} {
		if _, by, err := e.Sandbox(owner("s")).Query(t.Context(), tunnel.Query{Message: dnsQuestion(name)}); err != nil || by.Client != want {
			t.Errorf("a question for %s went to %v, %v; want %s", name, by, err, want)
		}
	}
}

// dnsQuestion is a question for a name.
func dnsQuestion(name string) []byte {
	b := make([]byte, 12)
	b[5] = 1
	for _, label := range bytes.Split([]byte(name), []byte(".")) {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

// TestSticky: among equals a destination always goes to the same client, many destinations to all of them, and when a client
// goes the others keep theirs.
func TestSticky(t *testing.T) {
	sessions := []*fakeSession{newFake("s", "a"), newFake("s", "b"), newFake("s", "c")}
	e := fakeEdge(t, sessions...)
	box := e.Sandbox(owner("s"))
	went := func(i int) string {
		s, err := box.OpenStream(t.Context(), tunnel.Open{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 443)})
		if err != nil {
			t.Fatal(err)
		}
		return s.By().Client
	}
	first, count := map[int]string{}, map[string]int{}
	for i := range 200 {
		first[i] = went(i)
		count[first[i]]++
		if again := went(i); again != first[i] {
			t.Errorf("destination %d went to %s, then to %s", i, first[i], again)
		}
	}
	for _, s := range sessions {
		if n := count[s.who.Client]; n < 30 {
			t.Errorf("client %s has %d of 200", s.who.Client, n)
		}
	}
	close(sessions[0].done)
	for i, c := range first {
		if now := went(i); c != "a" && now != c {
			t.Errorf("destination %d moved from %s to %s", i, c, now)
		}
	}
}

// TestFailover: an open whose client is gone, or does not answer, goes to another one within two seconds; one whose destination
// does not answer does not.
func TestFailover(t *testing.T) {
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name   string
		open   func(ctx context.Context) error
		deaf   bool
		want   tunnel.Code
		within time.Duration
	}{
		{"its session is lost", func(context.Context) error { return tunnel.Errorf(tunnel.Lost, "") }, false, tunnel.OK, 0},
		{"it drains", func(context.Context) error { return tunnel.Errorf(tunnel.Draining, "") }, false, tunnel.OK, 0},
		{"it answers nothing", hangs, true, tunnel.OK, 2 * time.Second},
		{"its destination does not answer", hangs, false, tunnel.TimedOut, time.Minute},
		{"its destination refuses", func(context.Context) error { return tunnel.Errorf(tunnel.Refused, "") }, false, tunnel.Refused, 0},
		{"it denies", func(context.Context) error { return tunnel.Errorf(tunnel.Denied, "") }, false, tunnel.Denied, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := newFake("s", "bad", prefix("10.0.0.0/24"))
				bad.open, bad.deaf = c.open, c.deaf
				e := fakeEdge(t, bad, newFake("s", "good"))
				defer close(bad.done)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				at := time.Now()
				to := netip.MustParseAddrPort("10.0.0.1:443")
				s, err := e.Sandbox(owner("s")).OpenStream(ctx, tunnel.Open{Addr: to})
				if tunnel.CodeOf(err) != c.want || time.Since(at) > c.within {
					t.Errorf("%v after %v, want %v within %v", err, time.Since(at), c.want, c.within)
				}
				if err == nil && s.By().Client != "good" {
					t.Errorf("it went to %v", s.By())
				}
				if !c.deaf {
					return
				}
				at = time.Now() // the next one does not try
				if _, err := e.Sandbox(owner("s")).OpenStream(ctx, tunnel.Open{Addr: to}); err != nil || time.Since(at) > 0 {
					t.Errorf("the next open: %v after %v", err, time.Since(at))
				}
			})
		})
	}
}

// TestNoClient: without a client an open fails at once, and when the last one went just now it fails after a wait that is
// bounded in time and number.
func TestNoClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Edge{}
		box := e.Sandbox(owner("s"))
		to := tunnel.Open{Addr: netip.MustParseAddrPort("10.0.0.1:443")}
		open := func() (time.Duration, error) {
			at := time.Now()
			_, err := box.OpenStream(t.Context(), to)
			return time.Since(at), err
		}
		if took, err := open(); tunnel.CodeOf(err) != tunnel.NoClient || took != 0 {
			t.Errorf("%v after %v", err, took)
		}
		m := newFake("s", "a").member()
		e.registry.join(m)
		e.registry.leave(m, true)
		if took, err := open(); tunnel.CodeOf(err) != tunnel.NoClient || took != parkFor {
			t.Errorf("a client went just now: %v after %v", err, took)
		}
		results := make(chan time.Duration, maxParked+10)
		for range maxParked + 10 {
			go func() {
				took, _ := open()
				results <- took
			}()
		}
		atOnce := 0
		for range maxParked + 10 {
			if took := <-results; took == 0 {
				atOnce++
			}
		}
		if atOnce != 10 {
			t.Errorf("%d of %d were refused at once", atOnce, maxParked+10)
		}
		time.Sleep(parkAfter)
		if took, err := open(); tunnel.CodeOf(err) != tunnel.NoClient || took != 0 {
			t.Errorf("a client went long ago: %v after %v", err, took)
		}
	})
}

// TestRegistryBounds: sessions of a client, of a space and in all are bounded.
func TestRegistryBounds(t *testing.T) {
	join := func(e *Edge, space, client string, generation uint64) error {
		m := newFake(space, client).member()
		m.generation = generation
		_, err := e.registry.join(m)
		return err
	}
	e := &Edge{}
	for i := range maxClientSessions + 1 {
		if err := join(e, "s", "a", 1); (tunnel.CodeOf(err) == tunnel.Limit) != (i == maxClientSessions) {
			t.Errorf("session %d of a client: %v", i, err)
		}
	}
	if err := join(e, "s", "a", 2); err != nil || e.registry.total != 1 {
		t.Errorf("a later process: %v, %d sessions", err, e.registry.total)
	}
	for i := range maxSpaceSessions {
		if err := join(e, "s", fmt.Sprint(i), 1); (tunnel.CodeOf(err) == tunnel.Limit) != (i == maxSpaceSessions-1) {
			t.Errorf("client %d of a space: %v", i, err)
		}
	}
	for i := 0; ; i++ {
		err := join(e, fmt.Sprint("s", i), "a", 1)
		if tunnel.CodeOf(err) == tunnel.Limit {
			break
		}
		if i > maxSessions {
			t.Fatal("there is no bound")
		}
	}
	if e.registry.total != maxSessions {
		t.Errorf("%d sessions", e.registry.total)
	}
}

// TestOpensPerSecond: one sandbox's opens are bounded, another's are not touched.
func TestOpensPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := fakeEdge(t, newFake("s", "a"))
		greedy, other := e.Sandbox(owner("s")), e.Sandbox(owner("s"))
		o := tunnel.Open{Addr: netip.MustParseAddrPort("10.0.0.1:443")}
		opened := 0
		for range 2 * opensBurst {
			if _, err := greedy.OpenStream(t.Context(), o); err == nil {
				opened++
			} else if tunnel.CodeOf(err) != tunnel.Limit {
				t.Fatal(err)
			}
		}
		if opened != opensBurst || e.counters.OpensLimited.Load() != opensBurst {
			t.Errorf("%d were opened, %d refused", opened, e.counters.OpensLimited.Load())
		}
		if _, err := other.OpenStream(t.Context(), o); err != nil {
			t.Errorf("another sandbox: %v", err)
		}
		time.Sleep(time.Second)
		opened = 0
		for range 2 * opensPerSecond {
			if _, err := greedy.OpenStream(t.Context(), o); err == nil {
				opened++
			}
		}
		if opened != opensPerSecond {
			t.Errorf("%d in the second after", opened)
		}
	})
}

// FuzzQuestionName: whatever the message, the name is short and not the parser's end.
func FuzzQuestionName(f *testing.F) {
	f.Add(dnsQuestion("db.corp.example"))
	f.Add(dnsQuestion(""))
	f.Add([]byte("who are you?\xc0\x0c"))
	f.Fuzz(func(t *testing.T, m []byte) {
		if name, ok := questionName(m); ok && (name == "" || len(name) > 254) {
			t.Errorf("%q", name)
		}
	})
}
