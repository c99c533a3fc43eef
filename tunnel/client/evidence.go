package client

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
)

// Bounds of what is remembered of answers. Evidence lasts as long as the answer says, and at least evidenceFor: programs keep
// addresses longer than they should.
const (
	evidenceFor     = 10 * time.Minute
	maxEvidence     = 16384
	maxNamesPerAddr = 16
	maxChain        = 16
	maxTTL          = 24 * time.Hour
)

// evidence is which names this machine's own resolver gave which addresses, by the sandbox that asked: nothing else makes a
// name true. It is safe for concurrent use.
type evidence struct {
	mu      sync.Mutex
	by      map[place][]*binding
	oldest  *list.List // of *binding, the oldest in front
	evicted uint64
}

// place is an address as a sandbox sees it.
type place struct {
	space, sandbox string
	addr           netip.Addr
}

// binding is one name of one address.
type binding struct {
	place place
	name  string   // as it was asked for
	chain []string // aliases between the name and the address
	until time.Time
	at    *list.Element
}

func newEvidence() *evidence { return &evidence{by: map[place][]*binding{}, oldest: list.New()} }

// learn remembers an answer.
func (e *evidence) learn(space, sandbox string, a answer) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, rec := range a.addrs {
		p := place{space, sandbox, rec.addr}
		until := now.Add(min(max(rec.ttl, evidenceFor), maxTTL))
		i := slices.IndexFunc(e.by[p], func(b *binding) bool { return b.name == a.name })
		if i >= 0 {
			b := e.by[p][i]
			b.until, b.chain = later(b.until, until), a.chain
			e.oldest.MoveToBack(b.at)
			continue
		}
		if len(e.by[p]) >= maxNamesPerAddr {
			e.forget(e.by[p][0])
			e.evicted++
		}
		for e.oldest.Len() >= maxEvidence {
			e.forget(e.oldest.Front().Value.(*binding))
			e.evicted++
		}
		b := &binding{place: p, name: a.name, chain: a.chain, until: until}
		b.at = e.oldest.PushBack(b)
		e.by[p] = append(e.by[p], b)
	}
}

// forget removes a binding; the lock is held.
func (e *evidence) forget(b *binding) {
	e.oldest.Remove(b.at)
	rest := slices.DeleteFunc(e.by[b.place], func(o *binding) bool { return o == b })
	if len(rest) == 0 {
		delete(e.by, b.place)
		return
	}
	e.by[b.place] = rest
}

// names returns the names under which the sandbox was given the address, and the aliases in between.
func (e *evidence) names(space, sandbox string, addr netip.Addr) (names, chain []string) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range slices.Clone(e.by[place{space, sandbox, addr}]) {
		if now.After(b.until) {
			e.forget(b)
			continue
		}
		names = append(names, b.name)
		chain = append(chain, b.chain...)
	}
	return names, chain
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// answer is what a DNS message says of the name that was asked for.
type answer struct {
	name  string // without service labels
	chain []string
	addrs []record
}

type record struct {
	addr netip.Addr
	ttl  time.Duration
}

// read takes out of a message the addresses of the name that was asked for, by way of its aliases and of nothing else: what a
// server says beside the question is not believed.
func read(m *dns.Msg) (a answer, ok bool) {
	if len(m.Question) != 1 {
		return a, false
	}
	asked, err := hostname.Labels(m.Question[0].Name)
	if err != nil {
		return a, false
	}
	a.name = hostname.Owner(asked)
	owners := []string{asked}
	for len(owners) <= maxChain {
		next := alias(m.Answer, owners[len(owners)-1])
		if next == "" || slices.Contains(owners, next) {
			break
		}
		owners = append(owners, next)
	}
	a.chain = owners[1:]
	for _, rr := range m.Answer {
		owner, err := hostname.Labels(rr.Header().Name)
		if err != nil || !slices.Contains(owners, owner) {
			continue
		}
		ttl := time.Duration(rr.Header().Ttl) * time.Second
		for _, addr := range addresses(rr) {
			a.addrs = append(a.addrs, record{addr, ttl})
		}
	}
	return a, true
}

// alias returns where a CNAME leads, "" if there is none.
func alias(answers []dns.RR, owner string) string {
	for _, rr := range answers {
		c, ok := rr.(*dns.CNAME)
		if !ok {
			continue
		}
		if n, err := hostname.Labels(c.Hdr.Name); err != nil || n != owner {
			continue
		}
		if n, err := hostname.Labels(c.Target); err == nil {
			return n
		}
	}
	return ""
}

// addresses returns those in one record: A, AAAA, and the hints of HTTPS and SVCB (RFC 9460 section 7.3).
func addresses(rr dns.RR) []netip.Addr {
	var out []netip.Addr
	add := func(ip []byte) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a.Unmap())
		}
	}
	hints := func(values []dns.SVCBKeyValue) {
		for _, v := range values {
			switch v := v.(type) {
			case *dns.SVCBIPv4Hint:
				for _, ip := range v.Hint {
					add(ip)
				}
			case *dns.SVCBIPv6Hint:
				for _, ip := range v.Hint {
					add(ip)
				}
			}
		}
	}
	switch rr := rr.(type) {
	case *dns.A:
		add(rr.A)
	case *dns.AAAA:
		add(rr.AAAA)
	case *dns.HTTPS:
		hints(rr.Value)
	case *dns.SVCB:
		hints(rr.Value)
	}
	return out
}
