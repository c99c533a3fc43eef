package resolver

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/hostname"
)

// How long evidence lasts. The floor is there because programs hold on to addresses for longer than a TTL of seconds; the
// ceiling is that of RFC 8767 section 4.
const (
	MinEvidence = 10 * time.Minute
	MaxEvidence = 7 * 24 * time.Hour
)

// Limits bounds a [Memory]. A zero field means its default.
type Limits struct {
	Addresses       int // pairs of route and address with evidence; default 8192
	NamesPerAddress int // names bound to one of them; default 64
	Names           int // bindings in all; default 16384
	Chain           int // CNAME chain members kept for one name; default 16
	Octets          int // of names and chains in all; default [DefaultOctets]
}

// DefaultOctets bounds the names and chain members of a [Memory] in octets, twice: what was learned and what was heard.
const DefaultOctets = 8 << 20

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Addresses, 8192}, {&l.NamesPerAddress, 64}, {&l.Names, 16384}, {&l.Chain, MaxChain}, {&l.Octets, DefaultOctets}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}

// Memory is the evidence of one sandbox: which names it was given which addresses for, by route. What its own upstream
// said and what it heard from other servers are kept apart, so that a flood of the second never displaces the first.
// All methods may be called at the same time.
type Memory struct {
	now func() time.Time

	mu    sync.Mutex
	holds map[netip.Addr]int // live flows by address; bounded by who opens flows
	own   *table
	heard *table
}

// NewMemory returns an empty memory. A nil now means [time.Now].
func NewMemory(limits Limits, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	limits = limits.withDefaults()
	return &Memory{now: now, holds: map[netip.Addr]int{}, own: newTable(limits), heard: newTable(limits)}
}

// Learn binds asked, a name in normal form that this sandbox asked its own upstream for, to the addresses of the answer.
// The evidence belongs to route and lasts max(ttl, [MinEvidence]), at most [MaxEvidence], and as long as a flow to the
// address is held. Chain members are kept beside it. A name that is no host name binds nothing.
func (m *Memory) Learn(route, asked string, chain []string, addrs []netip.Addr, ttl time.Duration) {
	m.bind(m.own, route, asked, chain, addrs, ttl)
}

// Hear keeps what another server than our own told the sandbox. It lasts as evidence does and is never evidence.
func (m *Memory) Hear(name string, chain []string, addrs []netip.Addr, ttl time.Duration) {
	m.bind(m.heard, "", name, chain, addrs, ttl)
}

func (m *Memory) bind(t *table, route, name string, chain []string, addrs []netip.Addr, ttl time.Duration) {
	name, err := hostname.Normalize(name)
	if err != nil {
		return
	}
	ttl = min(max(ttl, MinEvidence), MaxEvidence)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, a := range addrs {
		if a = plain(a); a.IsValid() {
			t.bind(key{route, a}, binding{name: name, chain: chain, until: now.Add(ttl)}, now, m.holds[a] > 0)
		}
	}
}

// Recall returns what is known of addr now: the names this sandbox asked for by that route, the chain members behind
// them, and what other servers said (names and their chains). The slices are shared: read them, do not change them.
func (m *Memory) Recall(route string, addr netip.Addr) (asked, chain, heard []string) {
	addr = plain(addr)
	m.mu.Lock()
	defer m.mu.Unlock()
	now, held := m.now(), m.holds[addr] > 0
	asked, chain = m.own.recall(key{route, addr}, now, held)
	names, chains := m.heard.recall(key{"", addr}, now, held)
	if len(chains) == 0 {
		return asked, chain, names
	}
	return asked, chain, append(names, chains...)
}

// Hold keeps the evidence for addr that is live now, or learned while it is held, until release is called: a flow to the
// address lives. What expired before is not brought back. Release may be called more than once.
func (m *Memory) Hold(addr netip.Addr) (release func()) {
	addr = plain(addr)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holds[addr]++; m.holds[addr] == 1 {
		m.own.hold(addr, m.now())
		m.heard.hold(addr, m.now())
	}
	return sync.OnceFunc(func() { m.release(addr) })
}

func (m *Memory) release(addr netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holds[addr]--; m.holds[addr] > 0 {
		return
	}
	delete(m.holds, addr)
	m.own.release(addr)
	m.heard.release(addr)
}

// Counters returns what the memory holds and what it had to give up, by name.
func (m *Memory) Counters() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := map[string]uint64{"held": uint64(len(m.holds))}
	for prefix, t := range map[string]*table{"evidence": m.own, "heard": m.heard} {
		c[prefix+"-addresses"] = uint64(len(t.entries))
		c[prefix+"-names"] = uint64(t.names)
		c[prefix+"-octets"] = uint64(t.octets)
		c[prefix+"-evicted"] = t.evicted
		c[prefix+"-refused"] = t.refused
	}
	return c
}

// plain is the one form of an address in the memory: without a zone, IPv4 as IPv4.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
