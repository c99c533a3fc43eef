package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

const staging = "staging-db.internal.example"

// routed is a server with two ways to ask: api.example and others on the host, *.internal.example on the user's machine, which
// has other answers. Names under lost.example are for a route that is not there.
func routed(far func(context.Context, []byte) ([]byte, string, error)) (s *Server, rec *records, host *spy) {
	host = &spy{Upstream: zone{
		"api.example. A": {"api.example. 60 A 192.0.2.1"}, "api.example. AAAA": {"api.example. 60 AAAA 2001:db8::1"},
		staging + ". A": {staging + ". 60 A 198.51.100.66"},
	}}
	s, rec = enforcing(host)
	decide := s.Decide
	s.Decide = func(name string, qtype uint16) Verdict {
		v := decide(name, qtype)
		switch {
		case isOrUnder(name, "internal.example"), name == "tunnel.weir.internal":
			v.Route, v.Confined = "tunnel", true
		case isOrUnder(name, "lost.example"):
			v.Route, v.Confined = "tunnel:desktop", true
		default:
			v.NoIPv6 = true
		}
		return v
	}
	s.Answer = nil
	s.Upstreams = map[string]Upstream{"direct": host, "tunnel": &Remote{Ask: far}}
	s.Local["tunnel.weir.internal"] = addrs("10.77.0.3")
	return s, rec, host
}

// laptop answers as the user's machine does.
func laptop(ctx context.Context, message []byte) ([]byte, string, error) {
	q := new(dns.Msg)
	if err := q.Unpack(message); err != nil {
		return nil, "", err
	}
	r, err := zone{
		staging + ". A":                          {staging + ". 60 A 10.0.1.50"},
		staging + ". AAAA":                       {staging + ". 60 AAAA fd00::50"},
		staging + ". TXT":                        {staging + `. 60 TXT "` + strings.Repeat("x", 200) + `"`},
		"_postgresql._tcp.internal.example. SRV": {"_postgresql._tcp.internal.example. 60 SRV 1 2 5432 " + staging + "."},
		staging + ". HTTPS":                      {staging + ". 60 HTTPS 1 . alpn=h2 ipv4hint=10.0.1.51"},
	}.Exchange(ctx, q)
	if err != nil {
		return nil, "", err
	}
	r.Id = q.Id
	raw, err := r.Pack()
	return raw, "acme/laptop", err
}

// TestRoutes: each name is asked by its own route, and the answer is evidence for that route and no other.
func TestRoutes(t *testing.T) {
	for _, c := range []struct {
		name, q string
		answers []string
		rcode   int
		record  Query // Route, Client, Verdict, Reason
		host    []string
		binds   map[string]string // address to its one name, by route
	}{
		{"the host's", "api.example A", []string{"192.0.2.1"}, 0, Query{Route: "direct", Verdict: "allow"}, []string{"api.example. A"}, map[string]string{"direct 192.0.2.1": "api.example"}},
		{"the host has no IPv6", "api.example AAAA", nil, 0, Query{Route: "direct", Verdict: "allow"}, nil, nil},
		{"the user's", staging + " A", []string{"10.0.1.50"}, 0, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, map[string]string{"tunnel 10.0.1.50": staging}},
		{"the user's IPv6", staging + " AAAA", []string{"fd00::50"}, 0, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, map[string]string{"tunnel fd00::50": staging}},
		{"TXT", staging + " TXT", []string{`"` + strings.Repeat("x", 200) + `"`}, 0, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, nil},
		{"SRV", "_postgresql._tcp.internal.example SRV", []string{"1 2 5432 " + staging + "."}, 0, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, nil},
		{"HTTPS", staging + " HTTPS", []string{`1 . alpn="h2" ipv4hint="10.0.1.51"`}, 0, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, map[string]string{"tunnel 10.0.1.51": staging}},
		{"no such name there", "other.internal.example A", nil, dns.RcodeNameError, Query{Route: "tunnel", Client: "acme/laptop", Verdict: "allow"}, nil, nil},
		{"a route that is not there", "db.lost.example A", nil, dns.RcodeServerFailure, Query{Route: "tunnel:desktop", Verdict: "deny", Reason: "no-tunnel"}, nil, nil},
		{"the user's own loopback", "tunnel.weir.internal A", []string{"10.77.0.3"}, 0, Query{Route: "tunnel", Verdict: "allow"}, nil, map[string]string{"tunnel 10.77.0.3": "tunnel.weir.internal"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, rec, host := routed(laptop)
			name, qtype, _ := strings.Cut(c.q, " ")
			r := send(t, s, testdns.Question(name, dns.StringToType[qtype], 4096))
			if got := testdns.Data(r); r.Rcode != c.rcode || !slices.Equal(got, c.answers) {
				t.Errorf("answered %s %q, want %s %q", dns.RcodeToString[r.Rcode], got, dns.RcodeToString[c.rcode], c.answers)
			}
			got := rec.list()[0]
			if got.Route != c.record.Route || got.Client != c.record.Client || got.Verdict != c.record.Verdict || got.Reason != c.record.Reason {
				t.Errorf("recorded %+v, want %+v", got, c.record)
			}
			if asked := host.asked(); !slices.Equal(asked, c.host) {
				t.Errorf("the host was asked %q, want %q", asked, c.host)
			}
			for _, route := range []string{"direct", "tunnel", "tunnel:desktop"} {
				for _, at := range addrs("192.0.2.1", "2001:db8::1", "10.0.1.50", "fd00::50", "10.0.1.51", "10.77.0.3") {
					var want []string
					if n := c.binds[route+" "+at.String()]; n != "" {
						want = []string{n}
					}
					if asked, _, _ := s.Memory.Recall(route, at); !slices.Equal(asked, want) {
						t.Errorf("evidence for %s by %s: %q, want %q", at, route, asked, want)
					}
				}
			}
		})
	}
}

// TestRemoteAnswers: what comes back must be an answer to what was asked; nobody there is a denial with its reason.
func TestRemoteAnswers(t *testing.T) {
	forge := func(change func(*dns.Msg)) func(context.Context, []byte) ([]byte, string, error) {
		return func(ctx context.Context, message []byte) ([]byte, string, error) {
			raw, by, err := laptop(ctx, message)
			m := new(dns.Msg)
			m.Unpack(raw)
			change(m)
			raw, _ = m.Pack()
			return raw, by, err
		}
	}
	for _, c := range []struct {
		name   string
		far    func(context.Context, []byte) ([]byte, string, error)
		rcode  int
		deny   string
		learnt bool
	}{
		{"an answer", laptop, dns.RcodeSuccess, "", true},
		{"another question", forge(func(m *dns.Msg) { m.Question[0].Name = "api.example." }), dns.RcodeServerFailure, "", false},
		{"another id", forge(func(m *dns.Msg) { m.Id++ }), dns.RcodeServerFailure, "", false},
		{"a question", forge(func(m *dns.Msg) { m.Response = false }), dns.RcodeServerFailure, "", false},
		{"nothing", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil }, dns.RcodeServerFailure, "", false},
		{"a failure", func(context.Context, []byte) ([]byte, string, error) { return nil, "", errors.New("timed out") }, dns.RcodeServerFailure, "", false},
		{"nobody", func(context.Context, []byte) ([]byte, string, error) {
			return nil, "", &Unavailable{Reason: "no-tunnel", Rule: "builtin:tunnel", Err: errors.New("no client")}
		}, dns.RcodeServerFailure, "no-tunnel", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, rec, host := routed(c.far)
			r := send(t, s, testdns.Question(staging, dns.TypeA, 4096))
			if r.Rcode != c.rcode {
				t.Errorf("answered %s", dns.RcodeToString[r.Rcode])
			}
			got := rec.list()[0]
			if deny := got.Verdict == "deny"; deny != (c.deny != "") || got.Reason != c.deny {
				t.Errorf("recorded %+v", got)
			}
			if asked, _, _ := s.Memory.Recall("tunnel", netip.MustParseAddr("10.0.1.50")); (len(asked) == 1) != c.learnt {
				t.Errorf("evidence %q", asked)
			}
			if asked := host.asked(); len(asked) > 0 {
				t.Errorf("the host was asked %q", asked)
			}
		})
	}
}

// TestConfirmByRoute: a claim is confirmed by the route of its name, and by no other.
func TestConfirmByRoute(t *testing.T) {
	s, _, host := routed(laptop)
	for _, c := range []struct {
		route, addr string
		want        bool
	}{
		{"tunnel", "10.0.1.50", true},
		{"tunnel", "198.51.100.66", false}, // what the host's resolver says
		{"direct", "198.51.100.66", false},
		{"direct", "10.0.1.50", false},
		{"tunnel:desktop", "10.0.1.50", false},
	} {
		if got := s.Confirm(t.Context(), c.route, staging, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s has %s by %s: %v", staging, c.addr, c.route, got)
		}
	}
	if asked := host.asked(); len(asked) > 0 {
		t.Errorf("the host was asked %q", asked)
	}
}

// TestWatchByRoute: an explicit server is asked by the route of the flow, which its events say; a name that is for the tunnel
// is kept from servers beyond another route.
func TestWatchByRoute(t *testing.T) {
	for _, c := range []struct {
		route, name string
		passes      bool
	}{
		{"tunnel", staging, true},
		{"tunnel", "api.example", true},
		{"direct", "api.example", true},
		{"direct", staging, false},
		{"tunnel:desktop", staging, false},
	} {
		t.Run(c.route+" "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, rec, _ := routed(laptop)
				w := startWatchTo(t, s, Explicit{Network: "udp", Server: google, Route: c.route, Client: "by " + c.route})
				go w.client.Write(packed(t, testdns.Question(c.name, dns.TypeA, 0)))
				if c.passes {
					if receive(w.server) == nil {
						t.Error("the server was not asked")
					}
				} else if r := receive(w.client); r == nil || unpacked(t, r).Rcode != dns.RcodeNameError {
					t.Error("the program was not told")
				}
				w.end()
				got := rec.list()
				if len(got) != 1 || got[0].Route != c.route || got[0].Client != "by "+c.route || got[0].Server != "8.8.8.8:53" || (got[0].Verdict == "allow") != c.passes {
					t.Errorf("recorded %+v", got)
				}
			})
		})
	}
}
