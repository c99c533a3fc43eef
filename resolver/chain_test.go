package resolver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

func TestTraceAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		qname  string
		answer []string
		chain  []string
		addrs  []string
		ttl    time.Duration
	}{
		{"plain", "api.example.", []string{"api.example. 60 A 192.0.2.1", "api.example. 30 A 192.0.2.2"},
			nil, []string{"192.0.2.1", "192.0.2.2"}, 30 * time.Second},
		{"both families", "api.example.", []string{"api.example. 60 A 192.0.2.1", "api.example. 60 AAAA 2001:db8::1"},
			nil, []string{"192.0.2.1", "2001:db8::1"}, time.Minute},
		{"chain", "api.example.", []string{"api.example. 300 CNAME a.cdn.test.", "a.cdn.test. 20 CNAME b.cdn.test.", "b.cdn.test. 60 A 192.0.2.1"},
			[]string{"a.cdn.test", "b.cdn.test"}, []string{"192.0.2.1"}, 20 * time.Second},
		{"chain in any order and case", "API.example.", []string{"B.cdn.test. 60 A 192.0.2.1", "a.CDN.test. 20 CNAME b.cdn.test.", "api.EXAMPLE. 300 CNAME A.cdn.test."},
			[]string{"a.cdn.test", "b.cdn.test"}, []string{"192.0.2.1"}, 20 * time.Second},
		{"an owner out of reach counts for nothing", "api.example.", []string{"api.example. 60 A 192.0.2.1", "bank.example. 60 A 203.0.113.6"},
			nil, []string{"192.0.2.1"}, time.Minute},
		{"a chain that starts elsewhere", "api.example.", []string{"other.example. 60 CNAME x.test.", "x.test. 60 A 203.0.113.6"},
			nil, nil, MaxEvidence},
		{"a loop", "api.example.", []string{"api.example. 60 CNAME b.example.", "b.example. 60 CNAME api.example.", "b.example. 5 A 192.0.2.1"},
			[]string{"b.example"}, []string{"192.0.2.1"}, 5 * time.Second},
		{"two CNAMEs of one owner: both are reached", "api.example.", []string{"api.example. 60 CNAME a.test.", "api.example. 60 CNAME b.test.", "b.test. 60 A 192.0.2.1"},
			[]string{"a.test", "b.test"}, []string{"192.0.2.1"}, time.Minute},
		{"DNAME with its CNAME", "www.old.example.", []string{"old.example. 60 DNAME new.example.", "www.old.example. 60 CNAME www.new.example.", "www.new.example. 60 A 192.0.2.1"},
			[]string{"www.new.example"}, []string{"192.0.2.1"}, time.Minute},
		{"DNAME alone", "www.old.example.", []string{"old.example. 60 DNAME new.example.", "www.new.example. 60 A 192.0.2.1"},
			[]string{"www.new.example"}, []string{"192.0.2.1"}, time.Minute},
		{"a DNAME does not lead from its own owner", "old.example.", []string{"old.example. 60 DNAME new.example.", "new.example. 60 A 192.0.2.1"},
			nil, nil, MaxEvidence},
		{"hints bind", "api.example.", []string{"api.example. 60 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1"},
			nil, []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}, time.Minute},
		{"hints of another target bind, and the target is a chain member", "api.example.", []string{"api.example. 60 HTTPS 1 pool.cdn.test. ipv4hint=192.0.2.1"},
			[]string{"pool.cdn.test"}, []string{"192.0.2.1"}, time.Minute},
		{"an alias leads to no address of its own", "api.example.", []string{"api.example. 60 HTTPS 0 pool.cdn.test.", "pool.cdn.test. 60 A 192.0.2.1"},
			[]string{"pool.cdn.test"}, nil, MaxEvidence},
		{"SRV targets are names to ask for", "_x._tcp.example.", []string{"_x._tcp.example. 60 SRV 0 0 443 host.example.", "host.example. 60 A 192.0.2.1"},
			nil, nil, MaxEvidence},
		{"a TTL with the highest bit", "api.example.", []string{"api.example. 2147483648 A 192.0.2.1"}, nil, []string{"192.0.2.1"}, 0},
		{"an IPv4 address in IPv6 is bound as what it is dialled", "api.example.", []string{"api.example. 60 AAAA ::ffff:192.0.2.1"}, nil, []string{"192.0.2.1"}, time.Minute},
		{"another class", "api.example.", []string{"api.example. 60 CH A 192.0.2.1"}, nil, nil, MaxEvidence},
		{"an odd chain member is kept for denies", "api.example.", []string{`api.example. 60 CNAME a\032b.Evil.test.`, `a\032b.evil.test. 60 A 192.0.2.1`},
			[]string{`a\ b.evil.test`}, []string{"192.0.2.1"}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			var answer []dns.RR
			for _, text := range c.answer {
				answer = append(answer, testdns.Record(text))
			}
			// Through the wire, as it comes from an upstream.
			answer = unpacked(t, packed(t, &dns.Msg{Answer: answer})).Answer
			got := traceAnswer(c.qname, answer)
			if !slices.Equal(got.chain, c.chain) || !slices.Equal(got.addrs, addrs(c.addrs...)) || got.ttl != c.ttl || got.tooLong {
				t.Fatalf("got %+v", got)
			}
		})
	}
}

func TestChainIsBounded(t *testing.T) {
	for n, tooLong := range map[int]bool{MaxChain: false, MaxChain + 1: true, 1000: true} {
		var answer []dns.RR
		for i := range n {
			answer = append(answer, testdns.Record(fmt.Sprintf("n%d.example. 60 CNAME n%d.example.", i, i+1)))
		}
		answer = append(answer, testdns.Record(fmt.Sprintf("n%d.example. 60 A 192.0.2.1", n)))
		if got := traceAnswer("n0.example.", answer); got.tooLong != tooLong {
			t.Errorf("a chain of %d: too long is %v", n, got.tooLong)
		}
	}
}

func TestNameOf(t *testing.T) {
	for _, c := range []struct {
		in, full, judged string
		odd              bool
	}{
		{"API.Example.", "api.example", "api.example", false},
		{"_mongodb._tcp.Cluster.example.", "_mongodb._tcp.cluster.example", "cluster.example", false},
		{"_8443._https.api.example.", "_8443._https.api.example", "api.example", false},
		{"_ldap._tcp.dc._msdcs.example.", "_ldap._tcp.dc._msdcs.example", "dc._msdcs.example", false},
		{"_a._b._c._d.example.", "_a._b._c._d.example", "_c._d.example", false},
		{"_dmarc.example.", "_dmarc.example", "_dmarc.example", false},
		{"_x._tcp.", "_x._tcp", "_x._tcp", false},
		{"_._tcp.example.", "_._tcp.example", "_._tcp.example", false},
		{"1.2.3.4.", "1.2.3.4", "1.2.3.4", false},
		{".", "", "", true},
		{`My\032Printer._ipp._tcp.Local.`, `my\032printer._ipp._tcp.local`, `my\032printer._ipp._tcp.local`, true},
		{`a\.b.example.`, `a\.b.example`, `a\.b.example`, true},
		{`a\000.example.`, `a\000.example`, `a\000.example`, true},
		{"*.example.", "*.example", "*.example", true},
	} {
		if got := nameOf(c.in); got != (asked{c.full, c.judged, c.odd}) {
			t.Errorf("nameOf(%q) = %+v", c.in, got)
		}
	}
}
