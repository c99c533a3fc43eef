package client

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestEvidenceIsOfTheQuestion: what a server says beside the question, or by way of no chain, binds nothing.
func TestEvidenceIsOfTheQuestion(t *testing.T) {
	for _, c := range []struct {
		name    string
		asked   string
		records []string
		want    string // name, chain, addresses
	}{
		{"an address", "db.example.", []string{"db.example. 30 IN A 10.0.0.1"}, "db.example [] [10.0.0.1]"},
		{"capitals", "DB.example.", []string{"db.EXAMPLE. 30 IN A 10.0.0.1"}, "db.example [] [10.0.0.1]"},
		{"somebody else's address", "db.example.", []string{"db.example. 30 IN A 10.0.0.1", "other.example. 30 IN A 10.0.0.2"}, "db.example [] [10.0.0.1]"},
		{"a chain in any order", "a.example.", []string{"c.example. 30 IN A 10.0.0.3", "b.example. 30 IN CNAME c.example.", "a.example. 30 IN CNAME b.example."}, "a.example [b.example c.example] [10.0.0.3]"},
		{"a chain with a gap", "a.example.", []string{"a.example. 30 IN CNAME b.example.", "d.example. 30 IN A 10.0.0.4"}, "a.example [b.example] []"},
		{"a loop", "a.example.", []string{"a.example. 30 IN CNAME b.example.", "b.example. 30 IN CNAME a.example.", "b.example. 30 IN A 10.0.0.5"}, "a.example [b.example] [10.0.0.5]"},
		{"mapped", "a.example.", []string{"a.example. 30 IN AAAA ::ffff:10.0.0.6"}, "a.example [] [10.0.0.6]"},
		{"hints", "_443._https.a.example.", []string{"_443._https.a.example. 30 IN HTTPS 1 . ipv4hint=10.0.0.7 ipv6hint=fd00::7"}, "a.example [] [10.0.0.7 fd00::7]"},
		{"no address", "a.example.", []string{`a.example. 30 IN TXT "10.0.0.8"`}, "a.example [] []"},
	} {
		m := new(dns.Msg).SetQuestion(c.asked, dns.TypeA)
		for _, text := range c.records {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		a, ok := read(m)
		addrs := []string{}
		for _, r := range a.addrs {
			addrs = append(addrs, r.addr.String())
		}
		if got := fmt.Sprint(a.name, " ", a.chain, " ", addrs); !ok || got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	long := new(dns.Msg).SetQuestion("n0.example.", dns.TypeA)
	for i := range 100 {
		rr, err := dns.NewRR(fmt.Sprintf("n%d.example. 30 IN CNAME n%d.example.", i, i+1))
		if err != nil {
			t.Fatal(err)
		}
		long.Answer = append(long.Answer, rr)
	}
	if a, ok := read(long); !ok || len(a.chain) != maxChain {
		t.Errorf("a chain of %d", len(a.chain))
	}
}

// TestEvidenceLasts: at least ten minutes, as long as the answer says, and no longer than a day.
func TestEvidenceLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ ttl, lasts time.Duration }{{0, evidenceFor}, {time.Minute, evidenceFor}, {time.Hour, time.Hour}, {1 << 60, maxTTL}} {
			e := newEvidence()
			e.learn("s", "s", answer{name: "db.example", addrs: []record{{own, c.ttl}}})
			time.Sleep(c.lasts)
			if n, _ := e.names("s", "s", own); len(n) != 1 {
				t.Errorf("ttl %s: forgotten too early", c.ttl)
			}
			time.Sleep(time.Second)
			if n, _ := e.names("s", "s", own); len(n) != 0 || e.oldest.Len() != 0 || len(e.by) != 0 {
				t.Errorf("ttl %s: remembered too long", c.ttl)
			}
		}
	})
}
