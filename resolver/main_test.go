package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/internal/testdns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is an upstream in memory.
type zone = testdns.Zone

// spy counts what reaches an upstream.
type spy struct {
	Upstream
	mu  sync.Mutex
	got []*dns.Msg
}

func (s *spy) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	s.mu.Lock()
	s.got = append(s.got, q.Copy())
	s.mu.Unlock()
	return s.Upstream.Exchange(ctx, q)
}

func (s *spy) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, q := range s.got {
		names = append(names, q.Question[0].Name+" "+typeName(q.Question[0].Qtype))
	}
	return names
}

type broken struct{}

func (broken) Exchange(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
	return nil, errors.New("nobody there")
}

// records collects what a server records.
type records struct {
	mu  sync.Mutex
	all []Query
}

func (r *records) add(q Query) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, q)
}

func (r *records) list() []Query {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// enforcing is a server with a policy that allows *.example and api.test, denies evil.example in chains, and keeps no
// private address but for names under corp.example.
func enforcing(up Upstream) (*Server, *records) {
	rec := &records{}
	return &Server{
		Upstream: up, Memory: NewMemory(Limits{}, nil), Enforce: true, IPv6: true, StripECH: true,
		Decide: func(name string, _ uint16) Verdict {
			if isOrUnder(name, "example") || name == "api.test" {
				return Verdict{Allow: true, Rule: "flag:1"}
			}
			return Verdict{Rule: "builtin:default", Reason: "dns-blocked"}
		},
		DecideChain: func(names []string) Verdict {
			if slices.ContainsFunc(names, func(n string) bool { return isOrUnder(n, "evil.test") }) {
				return Verdict{Rule: "flag:2", Reason: "rule"}
			}
			return Verdict{Allow: true}
		},
		Answer: func(name string, addr netip.Addr) (bool, string) {
			if plain(addr).IsPrivate() && !isOrUnder(name, "corp.example") {
				return false, "rebinding"
			}
			return true, ""
		},
		Record: rec.add,
		Local:  map[string][]netip.Addr{"host.weir.internal": {netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}},
	}, rec
}

// auditing is the same server with nothing enforced and nothing filtered.
func auditing(up Upstream) (*Server, *records) {
	s, rec := enforcing(up)
	s.Enforce, s.StripECH, s.DecideChain, s.Answer = false, false, nil, nil
	decide := s.Decide
	s.Decide = func(name string, qtype uint16) Verdict {
		v := decide(name, qtype)
		v.Allow, v.WouldDeny = true, !v.Allow
		return v
	}
	return s, rec
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("pack: %v", err)
	}
	return b
}

func unpacked(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack %x: %v", b, err)
	}
	return m
}

// send puts a question through the server as a datagram.
func send(t testing.TB, s *Server, q *dns.Msg) *dns.Msg {
	t.Helper()
	b := s.handle(t.Context(), packed(t, q), "10.77.0.1:53", 0)
	if b == nil {
		t.Fatalf("no answer to %s", q.Question[0].Name)
	}
	return unpacked(t, b)
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// anyName is an upstream that has an address for every name.
type anyName struct{}

func (anyName) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	r := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: netip.MustParseAddr("192.0.2.1").AsSlice()}}
	}
	return r, nil
}
