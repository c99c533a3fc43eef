package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

// world is the upstream of most tests here.
var world = zone{
	"api.test. A":                     {"api.test. 60 A 192.0.2.1"},
	"api.test. AAAA":                  {"api.test. 60 AAAA 2001:db8::1"},
	"www.example. A":                  {"www.example. 60 CNAME www.cdn.test.", "www.cdn.test. 60 A 192.0.2.2"},
	"cloaked.example. A":              {"cloaked.example. 60 CNAME x.evil.test.", "x.evil.test. 60 A 192.0.2.3"},
	"rebind.example. A":               {"rebind.example. 0 A 10.0.0.1"},
	"rebind.example. AAAA":            {"rebind.example. 0 AAAA ::ffff:10.0.0.1"},
	"mixed.example. A":                {"mixed.example. 0 A 10.0.0.1", "mixed.example. 0 A 192.0.2.4", "mixed.example. 0 RRSIG A 8 2 60 20300101000000 20200101000000 1 example. AAAA"},
	"db.corp.example. A":              {"db.corp.example. 60 A 10.0.1.50"},
	"beside.example. A":               {"beside.example. 60 A 192.0.2.5", "bank.example. 60 A 203.0.113.6", "+ns.example. 60 A 10.9.9.9", "+ns.example. 60 A 192.0.2.53"},
	"ech.example. HTTPS":              {"ech.example. 60 HTTPS 1 . mandatory=ech,ipv4hint alpn=h2,h3 ipv4hint=192.0.2.6,10.0.0.1 ech=AEX+DQBB ipv6hint=2001:db8::6"},
	"_x._tcp.example. SRV":            {"_x._tcp.example. 60 SRV 0 0 443 host.example.", "+host.example. 60 A 192.0.2.7"},
	"_8443._https.svc.example. HTTPS": {"_8443._https.svc.example. 60 HTTPS 1 . ipv4hint=192.0.2.14"},
	"txt.example. TXT":                {`txt.example. 60 TXT "v=1"`},
	"odd.example. TYPE65280":          {`odd.example. 60 TYPE65280 \# 3 010203`},
	"any.example. ANY":                {"any.example. 60 A 192.0.2.8", "any.example. 60 AAAA 2001:db8::8", `any.example. 60 TXT "x"`},
	"empty.example. A":                {},
	"onion.test. A":                   {"onion.test. 60 A 192.0.2.9"},
	"blocked.test. A":                 {"blocked.test. 60 A 192.0.2.10"},
	"1.2.0.192.in-addr.arpa. PTR":     {"1.2.0.192.in-addr.arpa. 60 PTR api.test."},
	"use-application-dns.net. A":      {"use-application-dns.net. 60 A 192.0.2.11"},
	"_dns.resolver.arpa. SVCB":        {"_dns.resolver.arpa. 60 SVCB 1 dot.test. alpn=dot"},
	"wpad.example. A":                 {"wpad.example. 60 A 192.0.2.12"},
	"metadata.google.internal. A":     {"metadata.google.internal. 60 A 169.254.169.254"},
	`my\ printer.local. A`:            {`my\ printer.local. 60 A 192.0.2.13`},
	". NS":                            {". 60 NS a.root.test."},
}

func TestPipeline(t *testing.T) {
	for _, c := range []struct {
		name    string
		q       string // "name TYPE"
		audit   bool
		noIPv6  bool
		rcode   int
		answers []string // rdata
		verdict string
		reason  string
		rule    string
		silent  bool     // nothing may reach the upstream
		binds   []string // "address name" afterwards
	}{
		{name: "an allowed name", q: "api.test A", answers: []string{"192.0.2.1"}, verdict: "allow", rule: "flag:1", binds: []string{"192.0.2.1 api.test"}},
		{name: "AAAA", q: "api.test AAAA", answers: []string{"2001:db8::1"}, verdict: "allow", rule: "flag:1", binds: []string{"2001:db8::1 api.test"}},
		{name: "AAAA where there is no IPv6", q: "api.test AAAA", noIPv6: true, verdict: "allow", rule: "flag:1", silent: true},
		{name: "ANY where there is no IPv6", q: "any.example ANY", noIPv6: true, answers: []string{"192.0.2.8", `"x"`}, verdict: "allow", rule: "flag:1"},
		{name: "a blocked name", q: "blocked.test A", rcode: dns.RcodeNameError, verdict: "deny", reason: "dns-blocked", rule: "builtin:default", silent: true},
		{name: "a blocked name in audit", q: "blocked.test A", audit: true, answers: []string{"192.0.2.10"}, verdict: "would-deny", reason: "dns-blocked", rule: "builtin:default", binds: []string{"192.0.2.10 blocked.test"}},
		{name: "a name that does not exist", q: "none.example A", rcode: dns.RcodeNameError, verdict: "allow", rule: "flag:1"},
		{name: "no data", q: "empty.example A", verdict: "allow", rule: "flag:1"},

		{name: "a chain", q: "www.example A", answers: []string{"www.cdn.test.", "192.0.2.2"}, verdict: "allow", rule: "flag:1", binds: []string{"192.0.2.2 www.example"}},
		{name: "a denied chain member", q: "cloaked.example A", rcode: dns.RcodeNameError, verdict: "deny", reason: "rule", rule: "flag:2"},
		{name: "owners beside the chain are no evidence", q: "beside.example A", answers: []string{"192.0.2.5", "203.0.113.6"}, verdict: "allow", reason: "rebinding", rule: "flag:1", binds: []string{"192.0.2.5 beside.example", "203.0.113.6", "192.0.2.53"}},

		{name: "rebinding", q: "rebind.example A", verdict: "deny", reason: "rebinding", rule: "flag:1", binds: []string{"10.0.0.1"}},
		{name: "rebinding by an IPv4 address in IPv6", q: "rebind.example AAAA", verdict: "deny", reason: "rebinding", rule: "flag:1", binds: []string{"10.0.0.1"}},
		{name: "a mixed answer", q: "mixed.example A", answers: []string{"192.0.2.4"}, verdict: "allow", reason: "rebinding", rule: "flag:1", binds: []string{"10.0.0.1", "192.0.2.4 mixed.example"}},
		{name: "a private name may", q: "db.corp.example A", answers: []string{"10.0.1.50"}, verdict: "allow", rule: "flag:1", binds: []string{"10.0.1.50 db.corp.example"}},

		{name: "HTTPS without ECH and private hints", q: "ech.example HTTPS", answers: []string{`1 . mandatory="ipv4hint" alpn="h2,h3" ipv4hint="192.0.2.6" ipv6hint="2001:db8::6"`}, verdict: "allow", reason: "rebinding", rule: "flag:1", binds: []string{"192.0.2.6 ech.example", "2001:db8::6 ech.example", "10.0.0.1"}},
		{name: "HTTPS in audit is whole", q: "ech.example HTTPS", audit: true, answers: []string{`1 . mandatory="ech,ipv4hint" alpn="h2,h3" ipv4hint="192.0.2.6,10.0.0.1" ech="AEX+DQBB" ipv6hint="2001:db8::6"`}, verdict: "allow", rule: "flag:1"},
		{name: "HTTPS hints where there is no IPv6", q: "ech.example HTTPS", noIPv6: true, answers: []string{`1 . mandatory="ipv4hint" alpn="h2,h3" ipv4hint="192.0.2.6"`}, verdict: "allow", reason: "rebinding", rule: "flag:1"},
		{name: "SRV is judged by its host; additional addresses are no evidence", q: "_x._tcp.example SRV", answers: []string{"0 0 443 host.example."}, verdict: "allow", rule: "flag:1", binds: []string{"192.0.2.7"}},
		{name: "a service name binds its host", q: "_8443._https.svc.example HTTPS", answers: []string{`1 . ipv4hint="192.0.2.14"`}, verdict: "allow", rule: "flag:1", binds: []string{"192.0.2.14 svc.example"}},
		{name: "SRV of a blocked host", q: "_x._tcp.blocked.test SRV", rcode: dns.RcodeNameError, verdict: "deny", reason: "dns-blocked", rule: "builtin:default", silent: true},
		{name: "TXT", q: "txt.example TXT", answers: []string{`"v=1"`}, verdict: "allow", rule: "flag:1"},
		{name: "a type nobody knows", q: "odd.example TYPE65280", answers: []string{`\# 3 010203`}, verdict: "allow", rule: "flag:1"},

		{name: "localhost", q: "localhost A", answers: []string{"127.0.0.1"}, verdict: "allow", rule: "builtin:localhost", silent: true, binds: []string{"127.0.0.1"}},
		{name: "under localhost", q: "db.localhost AAAA", answers: []string{"::1"}, verdict: "allow", rule: "builtin:localhost", silent: true},
		{name: "localhost MX", q: "localhost MX", verdict: "allow", rule: "builtin:localhost", silent: true},
		{name: "localhost backwards", q: "1.0.0.127.in-addr.arpa PTR", answers: []string{"localhost."}, verdict: "allow", rule: "builtin:local", silent: true},
		{name: "the host", q: "host.weir.internal A", answers: []string{"10.77.0.1"}, verdict: "allow", rule: "builtin:local", silent: true, binds: []string{"10.77.0.1 host.weir.internal"}},
		{name: "the host, IPv6", q: "Host.Weir.Internal AAAA", answers: []string{"fd77::1"}, verdict: "allow", rule: "builtin:local", silent: true},
		{name: "the host where there is no IPv6", q: "host.weir.internal AAAA", noIPv6: true, verdict: "allow", rule: "builtin:local", silent: true},
		{name: "the host backwards", q: "1.0.77.10.in-addr.arpa PTR", answers: []string{"host.weir.internal."}, verdict: "allow", rule: "builtin:local", silent: true},
		{name: "metadata is judged like any name", q: "metadata.google.internal A", rcode: dns.RcodeNameError, verdict: "deny", reason: "dns-blocked", rule: "builtin:default", silent: true},
		{name: "wpad is left to the policy", q: "wpad.example A", answers: []string{"192.0.2.12"}, verdict: "allow", rule: "flag:1"},
		{name: "onion", q: "abc.onion A", audit: true, rcode: dns.RcodeNameError, verdict: "deny", reason: "dns-blocked", rule: "builtin:onion", silent: true},
		{name: "the canary", q: "use-application-dns.net A", rcode: dns.RcodeNameError, verdict: "deny", reason: "encrypted-dns", rule: "builtin:resolver-discovery", silent: true},
		{name: "the canary in audit", q: "use-application-dns.net A", audit: true, answers: []string{"192.0.2.11"}, verdict: "would-deny", reason: "dns-blocked", rule: "builtin:default"},
		{name: "discovery of designated resolvers", q: "_dns.resolver.arpa SVCB", rcode: dns.RcodeNameError, verdict: "deny", reason: "encrypted-dns", rule: "builtin:resolver-discovery", silent: true},
		{name: "a reverse name is judged like any", q: "1.2.0.192.in-addr.arpa PTR", rcode: dns.RcodeNameError, verdict: "deny", reason: "dns-blocked", rule: "builtin:default", silent: true},

		{name: "an odd name", q: `my\ printer.local A`, rcode: dns.RcodeNameError, verdict: "deny", reason: "malformed", rule: "builtin:name", silent: true},
		{name: "an odd name in audit passes and is no evidence", q: `my\ printer.local A`, audit: true, answers: []string{"192.0.2.13"}, verdict: "would-deny", reason: "malformed", rule: "builtin:name", binds: []string{"192.0.2.13"}},
		{name: "the root in audit", q: ". NS", audit: true, answers: []string{"a.root.test."}, verdict: "would-deny", reason: "malformed", rule: "builtin:name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := &spy{Upstream: world}
			s, rec := enforcing(up)
			if c.audit {
				s, rec = auditing(up)
			}
			s.IPv6 = !c.noIPv6
			at := strings.LastIndexByte(c.q, ' ')
			name, qtype := c.q[:at], c.q[at+1:]
			code, ok := dns.StringToType[qtype]
			if !ok {
				fmt.Sscanf(qtype, "TYPE%d", &code)
			}
			q := testdns.Question(name, code, 1232)
			r := send(t, s, q)
			got := rec.list()
			if len(got) != 1 {
				t.Fatalf("recorded %+v", got)
			}
			if r.Rcode != c.rcode || r.Id != q.Id || !r.Response || !r.RecursionAvailable || r.Question[0] != q.Question[0] {
				t.Errorf("answer %v", r)
			}
			if diff := cmp.Diff(c.answers, got[0].Answers); diff != "" {
				t.Errorf("answers: %s", diff)
			}
			want := Query{Hostname: nameOf(q.Question[0].Name).full, Qtype: qtype, Server: "10.77.0.1:53", Rcode: rcodeName(c.rcode),
				Answers: got[0].Answers, Route: "direct", Verdict: c.verdict, Rule: c.rule, Reason: c.reason, Duration: got[0].Duration}
			if diff := cmp.Diff(want, got[0]); diff != "" {
				t.Errorf("record: %s", diff)
			}
			if n := len(up.asked()); c.silent != (n == 0) {
				t.Errorf("upstream was asked %v", up.asked())
			}
			for _, b := range c.binds {
				at, name, bound := strings.Cut(b, " ")
				names := askedFor(s.Memory, netip.MustParseAddr(at))
				if bound != (len(names) == 1) || bound && names[0] != name {
					t.Errorf("%s is bound to %v", at, names)
				}
			}
		})
	}
}

// TestFilteredSignature: a signature over a set that was changed would only make a validating stub reject the rest.
func TestFilteredSignature(t *testing.T) {
	s, _ := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		r, err := world.Exchange(ctx, q)
		r.AuthenticatedData = true
		return r, err
	}))
	if r := send(t, s, testdns.Question("mixed.example", dns.TypeA, 1232)); len(r.Answer) != 1 || r.AuthenticatedData {
		t.Fatalf("changed: %v", r)
	}
	if r := send(t, s, testdns.Question("api.test", dns.TypeA, 1232)); !r.AuthenticatedData {
		t.Fatalf("unchanged: %v", r)
	}
}

// TestBlockedSaysWhy: EDE 15 to those who speak EDNS (RFC 8914 section 4.16), and no OPT to those who do not.
func TestBlockedSaysWhy(t *testing.T) {
	s, _ := enforcing(world)
	opt := send(t, s, testdns.Question("blocked.test", dns.TypeA, 1232)).IsEdns0()
	if opt == nil || len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != 15 {
		t.Fatalf("OPT %v", opt)
	}
	if opt := send(t, s, testdns.Question("blocked.test", dns.TypeA, 0)).IsEdns0(); opt != nil {
		t.Fatalf("OPT %v to a client without EDNS", opt)
	}
}

// TestRefusals are messages whose name nobody looks at.
func TestRefusals(t *testing.T) {
	with := func(change func(*dns.Msg)) []byte {
		q := testdns.Question("api.test", dns.TypeA, 0)
		change(q)
		b, err := q.Pack()
		if err != nil {
			panic(err)
		}
		return b
	}
	qtype := func(t uint16) []byte { return with(func(q *dns.Msg) { q.Question[0].Qtype = t }) }
	for _, c := range []struct {
		name  string
		raw   []byte
		rcode int // -1: silence
	}{
		{"empty", nil, -1},
		{"shorter than a header", make([]byte, 11), -1},
		{"an answer", with(func(q *dns.Msg) { q.Response = true }), -1},
		{"a bare header", make([]byte, 12), dns.RcodeFormatError},
		{"no question", with(func(q *dns.Msg) { q.Question = nil }), dns.RcodeFormatError},
		{"two questions", with(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), dns.RcodeFormatError},
		{"cut in the question", with(func(*dns.Msg) {})[:20], dns.RcodeFormatError},
		{"a name that points at itself", append(append(make([]byte, 4), 0, 1, 0, 0, 0, 0, 0, 0), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"two OPT", with(func(q *dns.Msg) { q.SetEdns0(1232, false); q.Extra = append(q.Extra, q.Extra[0]) }), dns.RcodeFormatError},
		{"EDNS version 1", with(func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		{"CHAOS", with(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"class ANY", with(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"AXFR", qtype(dns.TypeAXFR), dns.RcodeRefused},
		{"IXFR", qtype(dns.TypeIXFR), dns.RcodeRefused},
		{"TKEY", qtype(dns.TypeTKEY), dns.RcodeRefused},
		{"NOTIFY", with(func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"UPDATE", with(func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"STATUS without a body", []byte{1, 2, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0}, dns.RcodeNotImplemented},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := &spy{Upstream: world}
			s, rec := enforcing(up)
			b := s.handle(t.Context(), c.raw, "", 0)
			if got := rec.list(); len(got) > 1 || len(got) == 1 && (got[0].Verdict != "deny" || got[0].Reason != "malformed" || got[0].Rcode != rcodeName(c.rcode)) {
				t.Errorf("recorded %+v", got)
			}
			if (c.rcode == dns.RcodeRefused) != (len(rec.list()) == 1 && c.rcode == dns.RcodeRefused) {
				t.Errorf("refused without a record")
			}
			if c.rcode < 0 {
				if b != nil {
					t.Fatalf("answered %x", b)
				}
				return
			}
			r := unpacked(t, b)
			if r.Rcode != c.rcode || !r.Response || r.Id != uint16(c.raw[0])<<8|uint16(c.raw[1]) || r.Opcode != int(c.raw[2]>>3)&0xf {
				t.Fatalf("answered %v", r)
			}
			if got := up.asked(); got != nil {
				t.Fatalf("upstream was asked %v", got)
			}
		})
	}
}

// TestUpstreamSeesOnlyTheQuestion: the bits that change the answer go along, everything else a client says does not.
func TestUpstreamSeesOnlyTheQuestion(t *testing.T) {
	up := &spy{Upstream: world}
	s, _ := enforcing(up)
	q := testdns.Question("ApI.tEsT", dns.TypeA, 4000)
	q.CheckingDisabled, q.AuthenticatedData, q.RecursionDesired = true, true, false
	opt := q.IsEdns0()
	opt.SetDo()
	opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
	q.Answer = []dns.RR{testdns.Record(`hidden.test. 0 TXT "secret"`)}
	q.Extra = append(q.Extra, testdns.Record(`hidden.test. 0 TXT "secret"`))
	r := send(t, s, q)
	got := up.got[0]
	if got.Question[0].Name != "api.test." || !got.CheckingDisabled || !got.AuthenticatedData || !got.RecursionDesired || !got.IsEdns0().Do() {
		t.Errorf("question %v", got)
	}
	if len(got.Answer)+len(got.Ns) != 0 || len(got.Extra) != 1 || len(got.IsEdns0().Option) != 0 || got.Id == q.Id {
		t.Errorf("went along: %v", got)
	}
	if r.Question[0].Name != "ApI.tEsT." || !r.CheckingDisabled || r.RecursionDesired || !r.IsEdns0().Do() {
		t.Errorf("answer %v", r)
	}
}

func TestUpstreamFails(t *testing.T) {
	s, rec := enforcing(broken{})
	r := send(t, s, testdns.Question("api.test", dns.TypeA, 1232))
	if r.Rcode != dns.RcodeServerFailure || s.Counters()["servfail"] != 1 || rec.list()[0].Rcode != "SERVFAIL" {
		t.Fatalf("%v %v", r, s.Counters())
	}
}

// TestEndlessChain: a chain that is too long to be looked at could hide a denied name at its end.
func TestEndlessChain(t *testing.T) {
	long := zone{}
	for i := range MaxChain + 5 {
		long["c0.example. A"] = append(long["c0.example. A"], fmt.Sprintf("c%d.example. 60 CNAME c%d.example.", i, i+1))
	}
	s, _ := enforcing(long)
	if r := send(t, s, testdns.Question("c0.example", dns.TypeA, 4096)); r.Rcode != dns.RcodeServerFailure || s.Counters()["chain-too-long"] != 1 {
		t.Fatalf("%v", r)
	}
	s, _ = auditing(long)
	if r := send(t, s, testdns.Question("c0.example", dns.TypeA, 4096)); r.Rcode != dns.RcodeSuccess || len(r.Answer) != MaxChain+5 {
		t.Fatalf("audit: %v", r)
	}
}
