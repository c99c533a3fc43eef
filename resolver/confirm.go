package resolver

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/internal/stub"
)

// MaxConfirms bounds the names that are confirmed at one time.
const MaxConfirms = 32

// confirms joins the flows that wait for one and the same question.
type confirms struct {
	mu      sync.Mutex
	pending map[confirmKey]*confirmation
}

type confirmKey struct {
	route, name string
	qtype       uint16
}

type confirmation struct {
	done  chan struct{}
	addrs []netip.Addr
}

// Confirm asks the route's own upstream once for name, A or AAAA after addr's family, and reports whether addr is among the
// addresses it may have. The question goes the way of one that the sandbox asked: a name or an answer that the policy does
// not let through, or asks by another route, confirms nothing, and what the answer binds is evidence from then on. Flows that ask the same share one
// question; beyond [MaxConfirms] at one time nothing is confirmed. Confirm returns false when ctx ends first.
func (s *Server) Confirm(ctx context.Context, route, name string, addr netip.Addr) bool {
	name, err := hostname.Normalize(name)
	if err != nil || !addr.IsValid() {
		return false
	}
	addr = plain(addr)
	k := confirmKey{route, name, dns.TypeA}
	if addr.Is6() {
		k.qtype = dns.TypeAAAA
	}
	c := s.confirmation(ctx, k)
	if c == nil {
		s.counters.confirmLimited.Add(1)
		return false
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return false
	}
	if slices.Contains(c.addrs, addr) {
		s.counters.confirmed.Add(1)
		return true
	}
	s.counters.unconfirmed.Add(1)
	return false
}

// confirmation joins or starts the question for k; nil when too many are at work.
func (s *Server) confirmation(ctx context.Context, k confirmKey) *confirmation {
	s.confirms.mu.Lock()
	defer s.confirms.mu.Unlock()
	if c, ok := s.confirms.pending[k]; ok {
		return c
	}
	if len(s.confirms.pending) >= MaxConfirms {
		return nil
	}
	if s.confirms.pending == nil {
		s.confirms.pending = map[confirmKey]*confirmation{}
	}
	c := &confirmation{done: make(chan struct{})}
	s.confirms.pending[k] = c
	// Others may wait for this answer when the flow that asked first is gone; MaxAnswer bounds it.
	go s.confirm(context.WithoutCancel(ctx), k, c)
	return c
}

func (s *Server) confirm(ctx context.Context, k confirmKey, c *confirmation) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(k.name), k.qtype)
	q.SetEdns0(stub.UDPSize, false)
	start := time.Now()
	out := s.resolve(ctx, q)
	s.note(q.Question[0], "", out, start, true)
	if !out.blocked() && s.routeOf(out.verdict) == k.route {
		c.addrs = out.trace.addrs
	}
	s.confirms.mu.Lock()
	delete(s.confirms.pending, k)
	s.confirms.mu.Unlock()
	close(c.done)
}
