package resolver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a clock that stands still until it is told to go on.
type clock struct{ t time.Time }

func (c *clock) now() time.Time       { return c.t }
func (c *clock) pass(d time.Duration) { c.t = c.t.Add(d) }
func newClock() *clock                { return &clock{time.Unix(1_800_000_000, 0)} }
func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, byte(n >> 16), byte(n >> 8), byte(n)})
}
func one(a netip.Addr) []netip.Addr { return []netip.Addr{a} }
func askedFor(m *Memory, a netip.Addr) []string {
	asked, _, _ := m.Recall("direct", a)
	return asked
}

func TestEvidenceLasts(t *testing.T) {
	for _, c := range []struct {
		name string
		ttl  time.Duration
		live time.Duration // the last moment it is known
	}{
		{"TTL 0 has the floor", 0, MinEvidence},
		{"a TTL below the floor", time.Minute, MinEvidence},
		{"a TTL above the floor", time.Hour, time.Hour},
		{"a TTL of years has the ceiling", 30 * 365 * 24 * time.Hour, MaxEvidence},
	} {
		t.Run(c.name, func(t *testing.T) {
			clk := newClock()
			m := NewMemory(Limits{}, clk.now)
			m.Learn("direct", "api.example", nil, one(addr(1)), c.ttl)
			clk.pass(c.live - 1)
			if got := askedFor(m, addr(1)); !slices.Equal(got, []string{"api.example"}) {
				t.Fatalf("just before %v: %v", c.live, got)
			}
			clk.pass(1)
			if got := askedFor(m, addr(1)); got != nil {
				t.Fatalf("after %v: %v", c.live, got)
			}
			if n := m.Counters()["evidence-names"]; n != 0 {
				t.Fatalf("%d names kept after expiry", n)
			}
		})
	}
}

func TestEvidenceIsRenewedNeverShortened(t *testing.T) {
	clk := newClock()
	m := NewMemory(Limits{}, clk.now)
	m.Learn("direct", "api.example", []string{"a.cdn.test"}, one(addr(1)), time.Hour)
	m.Learn("direct", "api.example", []string{"b.cdn.test"}, one(addr(1)), 0)
	clk.pass(time.Hour - 1)
	asked, chain, _ := m.Recall("direct", addr(1))
	if !slices.Equal(asked, []string{"api.example"}) || !slices.Equal(chain, []string{"a.cdn.test", "b.cdn.test"}) {
		t.Fatalf("asked %v chain %v", asked, chain)
	}
}

func TestEvidenceBelongsToItsRoute(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	m.Learn("tunnel", "db.corp.example", nil, addrs("10.0.1.50"), 0)
	if got, _, _ := m.Recall("direct", netip.MustParseAddr("10.0.1.50")); got != nil {
		t.Fatalf("direct knows %v", got)
	}
	if got, _, _ := m.Recall("tunnel", netip.MustParseAddr("10.0.1.50")); len(got) != 1 {
		t.Fatalf("tunnel knows %v", got)
	}
}

func TestHeardIsNotAsked(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	m.Hear("ads.example", []string{"track.test"}, one(addr(1)), 0)
	asked, chain, heard := m.Recall("direct", addr(1))
	if asked != nil || chain != nil || !slices.Equal(heard, []string{"ads.example", "track.test"}) {
		t.Fatalf("asked %v chain %v heard %v", asked, chain, heard)
	}
}

func TestHold(t *testing.T) {
	clk := newClock()
	m := NewMemory(Limits{}, clk.now)
	m.Learn("direct", "gone.example", nil, one(addr(1)), 0)
	clk.pass(MinEvidence)
	first := m.Hold(addr(1))
	if got := askedFor(m, addr(1)); got != nil {
		t.Fatalf("a hold brought %v back", got)
	}
	m.Learn("direct", "api.example", nil, one(addr(1)), 0)
	second := m.Hold(addr(1))
	clk.pass(24 * time.Hour)
	if got := askedFor(m, addr(1)); len(got) != 1 {
		t.Fatalf("held: %v", got)
	}
	first()
	first() // releasing twice must not release the other flow's hold
	if got := askedFor(m, addr(1)); len(got) != 1 {
		t.Fatalf("still held by one flow: %v", got)
	}
	second()
	if got := askedFor(m, addr(1)); got != nil {
		t.Fatalf("released: %v", got)
	}
	if c := m.Counters(); c["held"] != 0 || c["evidence-addresses"] != 0 {
		t.Fatalf("left behind: %v", c)
	}
}

func TestMemoryForms(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	m.Learn("direct", "API.Example.", nil, addrs("::ffff:192.0.2.1", "fe80::1%eth0"), 0)
	for _, a := range []string{"192.0.2.1", "::ffff:192.0.2.1", "fe80::1"} {
		if got := askedFor(m, netip.MustParseAddr(a)); !slices.Equal(got, []string{"api.example"}) {
			t.Errorf("%s: %v", a, got)
		}
	}
	for _, name := range []string{"", "a b.example", "192.0.2.9", `a\.b.example`} {
		m.Learn("direct", name, nil, one(addr(9)), 0)
	}
	m.Learn("direct", "nowhere.example", nil, one(netip.Addr{}), 0)
	if got := askedFor(m, addr(9)); got != nil {
		t.Errorf("what is no host name was bound: %q", got)
	}
}

func TestMemoryBounds(t *testing.T) {
	small := Limits{Addresses: 4, NamesPerAddress: 3, Names: 6, Chain: 2}
	fill := func(m *Memory, addresses, names int) {
		for a := range addresses {
			for n := range names {
				m.Learn("direct", fmt.Sprintf("n%d-%d.example", a, n), nil, one(addr(a)), 0)
			}
		}
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, m *Memory)
		want map[string]uint64
	}{
		{"addresses: the least recently used goes", func(t *testing.T, m *Memory) {
			fill(m, 4, 1)
			askedFor(m, addr(0))
			m.Learn("direct", "new.example", nil, one(addr(9)), 0)
			if askedFor(m, addr(0)) == nil || askedFor(m, addr(1)) != nil || askedFor(m, addr(9)) == nil {
				t.Error("not the least recently used address went")
			}
		}, map[string]uint64{"evidence-addresses": 4, "evidence-names": 4, "evidence-evicted": 1}},
		{"names of an address: the oldest goes", func(t *testing.T, m *Memory) {
			fill(m, 1, 4)
			if got := askedFor(m, addr(0)); !slices.Equal(got, []string{"n0-1.example", "n0-2.example", "n0-3.example"}) {
				t.Errorf("kept %v", got)
			}
		}, map[string]uint64{"evidence-names": 3, "evidence-evicted": 1}},
		{"names in all", func(t *testing.T, m *Memory) {
			fill(m, 3, 3)
			if askedFor(m, addr(0)) != nil || len(askedFor(m, addr(2))) != 3 {
				t.Error("not the least recently used names went")
			}
		}, map[string]uint64{"evidence-names": 6, "evidence-evicted": 3}},
		{"what a flow holds stays", func(t *testing.T, m *Memory) {
			fill(m, 4, 1)
			for a := range 4 {
				t.Cleanup(m.Hold(addr(a)))
			}
			m.Learn("direct", "new.example", nil, one(addr(9)), 0)
			if askedFor(m, addr(9)) != nil || askedFor(m, addr(0)) == nil {
				t.Error("a held address made room")
			}
		}, map[string]uint64{"evidence-addresses": 4, "evidence-refused": 1, "evidence-evicted": 0}},
		{"names of a held address stay", func(t *testing.T, m *Memory) {
			fill(m, 1, 3)
			t.Cleanup(m.Hold(addr(0)))
			m.Learn("direct", "new.example", nil, one(addr(0)), 0)
			if got := askedFor(m, addr(0)); slices.Contains(got, "new.example") {
				t.Errorf("kept %v", got)
			}
		}, map[string]uint64{"evidence-names": 3, "evidence-refused": 1}},
		{"chain members", func(t *testing.T, m *Memory) {
			m.Learn("direct", "a.example", []string{"1.test", "2.test", "3.test"}, one(addr(0)), 0)
			if _, chain, _ := m.Recall("direct", addr(0)); !slices.Equal(chain, []string{"2.test", "3.test"}) {
				t.Errorf("kept %v", chain)
			}
		}, map[string]uint64{"evidence-evicted": 1}},
		{"a flood of heard names moves no evidence", func(t *testing.T, m *Memory) {
			m.Learn("direct", "api.example", nil, one(addr(1)), 0)
			for i := range 100 {
				m.Hear(fmt.Sprintf("n%d.test", i), nil, one(addr(i)), 0)
			}
			if askedFor(m, addr(1)) == nil {
				t.Error("evidence is gone")
			}
		}, map[string]uint64{"heard-addresses": 4, "heard-evicted": 96, "evidence-names": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMemory(small, newClock().now)
			c.run(t, m)
			got := m.Counters()
			for k, v := range c.want {
				if got[k] != v {
					t.Errorf("counter %s = %d, want %d", k, got[k], v)
				}
			}
		})
	}
}

func TestManyAddressesOfOneName(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	release := m.Hold(addr(0))
	defer release()
	for i := range 10_000 {
		m.Learn("direct", "s3.example", nil, one(addr(i)), 0)
	}
	if askedFor(m, addr(0)) == nil || askedFor(m, addr(9_999)) == nil {
		t.Fatal("the held or the newest address is not known")
	}
	if c := m.Counters(); c["evidence-addresses"] != 8192 {
		t.Fatalf("%v", c)
	}
}

// TestRecallSharesNothingThatChanges: a slice that was handed out keeps its content while the memory goes on.
func TestRecallSharesNothingThatChanges(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	m.Learn("direct", "a.example", nil, one(addr(1)), 0)
	before := askedFor(m, addr(1))
	_ = append(before, "mine.example")
	m.Learn("direct", "b.example", nil, one(addr(1)), 0)
	if got := askedFor(m, addr(1)); !slices.Equal(before, []string{"a.example"}) || !slices.Equal(got, []string{"a.example", "b.example"}) {
		t.Fatalf("before %v, after %v", before, got)
	}
}

func TestRecallAllocatesNothing(t *testing.T) {
	m := NewMemory(Limits{}, newClock().now)
	m.Learn("direct", "a.example", []string{"c.test"}, one(addr(1)), 0)
	if n := testing.AllocsPerRun(100, func() { m.Recall("direct", addr(1)) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// TestMemoryModel runs random operations against a memory and against a list that is searched, without bounds.
func TestMemoryModel(t *testing.T) {
	type fact struct {
		name  string
		addr  netip.Addr
		until time.Time
	}
	rng := rand.New(rand.NewPCG(1, 2))
	clk := newClock()
	m := NewMemory(Limits{}, clk.now)
	var facts []fact
	holds := map[netip.Addr][]func(){}
	for step := range 20_000 {
		a := addr(rng.IntN(4))
		// What a flow holds does not expire; the list forgets the rest.
		facts = slices.DeleteFunc(facts, func(f fact) bool { return len(holds[f.addr]) == 0 && !clk.now().Before(f.until) })
		switch rng.IntN(6) {
		case 0, 1:
			name, ttl := fmt.Sprintf("n%d.example", rng.IntN(5)), time.Duration(rng.IntN(40))*time.Minute
			m.Learn("direct", name, nil, one(a), ttl)
			until := clk.now().Add(max(ttl, MinEvidence))
			if i := slices.IndexFunc(facts, func(f fact) bool { return f.name == name && f.addr == a }); i >= 0 {
				if facts[i].until.After(until) {
					until = facts[i].until
				}
				facts = slices.Delete(facts, i, i+1)
			}
			facts = append(facts, fact{name, a, until})
		case 2:
			clk.pass(time.Duration(rng.IntN(10)) * time.Minute)
		case 3:
			if len(holds[a]) < 3 {
				holds[a] = append(holds[a], m.Hold(a))
			}
		case 4:
			if h := holds[a]; len(h) > 0 {
				h[0]()
				holds[a] = h[1:]
			}
		}
		facts = slices.DeleteFunc(facts, func(f fact) bool { return len(holds[f.addr]) == 0 && !clk.now().Before(f.until) })
		var want []string
		for _, f := range facts {
			if f.addr == a {
				want = append(want, f.name)
			}
		}
		if diff := cmp.Diff(want, askedFor(m, a)); diff != "" {
			t.Fatalf("step %d, %s: %s", step, a, diff)
		}
	}
	for _, h := range holds {
		for _, release := range h {
			release()
		}
	}
}

func TestMemoryManyAtOnce(t *testing.T) {
	m := NewMemory(Limits{Addresses: 8, Names: 16, NamesPerAddress: 4}, nil)
	var work sync.WaitGroup
	for g := range 8 {
		work.Go(func() {
			for i := range 500 {
				a := addr((i + g) % 16)
				release := m.Hold(a)
				m.Learn("direct", fmt.Sprintf("n%d.example", i%20), []string{"c.test"}, one(a), 0)
				m.Hear("h.test", nil, one(a), 0)
				m.Recall("direct", a)
				release()
			}
		})
	}
	work.Wait()
	if c := m.Counters(); c["held"] != 0 || c["evidence-names"] > 16 || c["evidence-addresses"] > 8 {
		t.Fatalf("%v", c)
	}
}
