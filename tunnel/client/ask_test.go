package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/tunnel"
)

// user answers questions: with what the func says, one at a time.
func user(answer func(Prompt) (Answer, error), asked *atomic.Int64) func(*HandlerConfig) {
	return func(c *HandlerConfig) {
		c.Ask = func(_ context.Context, p Prompt) (Answer, error) {
			asked.Add(1)
			return answer(p)
		}
	}
}

// TestAsk: what each answer opens, and for how long.
func TestAsk(t *testing.T) {
	at := udpServer(t).String()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			answer Answer
			asked  int64 // after three flows
			passed int
			rule   string
		}{{Refuse, 1, 0, ""}, {Once, 3, 3, "asked:once"}, {ThisRun, 1, 3, "asked:run"}, {Always, 1, 3, "asked:always"}} {
			var asked atomic.Int64
			var kept []string
			m := newMachine(t, Rules{}, nil, user(func(Prompt) (Answer, error) { return c.answer, nil }, &asked), func(h *HandlerConfig) {
				h.Remember = func(app, rule string) error { kept = append(kept, app+" "+rule); return nil }
			})
			// The loopback is guarded; that nobody may be asked about.
			if _, err := m.Dial(t.Context(), opening(at+" udp")); tunnel.CodeOf(err) != tunnel.Denied || asked.Load() != 0 {
				t.Fatalf("a guarded address: %v, asked %d times", err, asked.Load())
			}
			passed := 0
			for range 3 {
				f, err := m.asked(t.Context(), opening("10.0.1.50:5432"), m.judged("10.0.1.50:5432"))
				if err != nil {
					t.Fatal(err)
				}
				if f.verdict.String() == "allow" {
					passed++
					if f.rule != c.rule {
						t.Errorf("answer %d: rule %s", c.answer, f.rule)
					}
				}
			}
			if passed != c.passed || asked.Load() != c.asked {
				t.Errorf("answer %d: %d passed, asked %d times", c.answer, passed, asked.Load())
			}
			if c.answer == ThisRun && m.judged("10.0.1.50:5433").verdict.String() == "allow" {
				t.Error("another port is open, too")
			}
			if c.answer == ThisRun && m.judged("10.0.1.50:5432 app=other").verdict.String() == "allow" {
				t.Error("another app may, too")
			}
			if got := fmt.Sprint(kept); (c.answer == Always) != (got == "[postgres 10.0.1.50:5432/tcp]") {
				t.Errorf("answer %d: kept %s", c.answer, got)
			}
		}
	})
}

// TestAskedRuleIsForWhatIsTrue: a name goes into the rule only when this machine has found it to be true.
func TestAskedRuleIsForWhatIsTrue(t *testing.T) {
	m := newMachine(t, Rules{AllNames: true}, names("db.example 10.0.1.50"))
	m.ask(t, "db.example", dns.TypeA)
	for open, rule := range map[string]string{
		"10.0.1.50:5432":                 "db.example:5432/tcp",
		"10.0.1.51:5432 db.example":      "10.0.1.51:5432/tcp",
		"10.0.1.51:53 udp db.example":    "10.0.1.51:53/udp",
		"[fd00::1]:5432 \x1b[2Kdb.local": "[fd00::1]:5432/tcp",
	} {
		if p := promptFor(opening(open), m.judged(open)); p.Rule != rule {
			t.Errorf("%q: %s, want %s", open, p.Rule, rule)
		}
	}
}

// TestAskOverTheList: denies stand, whatever the user might say.
func TestAskOverTheList(t *testing.T) {
	var asked atomic.Int64
	m := newMachine(t, Rules{Deny: []string{"10.0.1.51"}, Allow: []string{"10.0.1.50:5432"}}, nil, user(func(Prompt) (Answer, error) { return Always, nil }, &asked))
	for _, open := range []string{"10.0.1.51:5432", "169.254.169.254:80", "192.168.7.2:22", "198.51.100.7:443"} {
		if _, err := m.Dial(t.Context(), opening(open)); tunnel.CodeOf(err) != tunnel.Denied {
			t.Errorf("%s: %v", open, err)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// TestAskIsBounded: one question at a time, the same one once, sixteen that wait, and a no when nobody answers.
func TestAskIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown, now, most, last atomic.Int64
		ask := func(ctx context.Context, p Prompt) (Answer, error) {
			shown.Add(1)
			last.Store(int64(p.Addr.Port()))
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-ctx.Done()
			return Refuse, ctx.Err()
		}
		m := newMachine(t, Rules{}, nil, func(c *HandlerConfig) { c.Ask = ask })
		codes := make(chan tunnel.Code, 1000)
		open := func(i int) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := m.Dial(ctx, opening(fmt.Sprintf("10.0.1.50:%d", i)))
			codes <- tunnel.CodeOf(err)
		}
		for i := range maxAsks {
			go open(i + 1)
			go open(i + 1)
		}
		synctest.Wait()
		if now.Load() != 1 || m.asker.waiting() != maxAsks {
			t.Fatalf("%d shown, %d wait", now.Load(), m.asker.waiting())
		}
		open(9999)
		if got := <-codes; got != tunnel.Denied || m.Counters().Asks != 1 {
			t.Errorf("one too many: %v, counted %d", got, m.Counters().Asks)
		}
		for range maxWaiters - 2*maxAsks {
			go open(1)
		}
		synctest.Wait()
		open(1)
		if got := <-codes; got != tunnel.Denied || m.Counters().Asks != 2 {
			t.Errorf("too many for one answer: %v, counted %d", got, m.Counters().Asks)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		for range maxWaiters {
			if got := <-codes; got != tunnel.TimedOut {
				t.Fatalf("nobody has answered yet: %v", got)
			}
		}
		time.Sleep(askFor * maxAsks)
		synctest.Wait()
		if shown.Load() != maxAsks || most.Load() != 1 || m.asker.waiting() != 0 || m.asker.waitingFlows() != 0 {
			t.Errorf("%d were shown, %d at one time, %d are left", shown.Load(), most.Load(), m.asker.waiting())
		}
		go open(int(last.Load()))
		synctest.Wait()
		if got := <-codes; got != tunnel.Denied {
			t.Errorf("right after a question that nobody answered: %v", got)
		}
		time.Sleep(silentFor)
		go open(int(last.Load()))
		synctest.Wait()
		if now.Load() != 1 {
			t.Error("not asked again later")
		}
		m.Close() // ends the question
		if got := <-codes; got != tunnel.Denied {
			t.Errorf("when the command ends: %v", got)
		}
	})
}

// TestAskForNames: a name that no rule covers is asked about before its question leaves the machine, once for all types.
func TestAskForNames(t *testing.T) {
	var asked atomic.Int64
	m := newMachine(t, Rules{}, names("db.example 10.0.1.50"), user(func(p Prompt) (Answer, error) {
		if p.Network != "dns" || p.Rule != "db.example/dns" {
			return Refuse, errors.New("what?")
		}
		return ThisRun, nil
	}, &asked))
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if r := m.ask(t, "db.example", qtype); r.Rcode != dns.RcodeSuccess {
			t.Errorf("answer: %v", r)
		}
	}
	if asked.Load() != 1 || m.names.count() != 2 {
		t.Errorf("asked %d times, %d questions", asked.Load(), m.names.count())
	}
	if m.ask(t, "other.example", dns.TypeA).Rcode != dns.RcodeNameError || m.names.count() != 2 {
		t.Error("a name that the user was not for")
	}
}

func (a *asker) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)
}

func (a *asker) waitingFlows() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiters
}
