package client

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tunnel"
)

// Bounds of questions to the user. One is shown at a time and for askFor; at most maxAsks wait, and at most maxWaiters flows
// for their answers; the rest is denied. A no
// stands for refusedFor, so that who is refused cannot go on asking; what nobody answered is asked again after silentFor.
const (
	askFor     = 30 * time.Second
	maxAsks    = 16
	maxWaiters = 64
	refusedFor = 10 * time.Minute
	silentFor  = time.Minute
	maxRefused = 1024
)

// ruleAsked is the rule of a flow that the user let pass once.
const ruleAsked = "asked:once"

// Prompt is a question to the user. App, Sandbox and Name are hostile text.
type Prompt struct {
	App, Sandbox string
	Network      string         // "tcp", "udp", or "dns" for the question for a name
	Addr         netip.AddrPort // not for "dns"
	Name         string
	Confirmed    bool   // this machine's own resolver gave Name this address; otherwise the hosted side only says so
	Rule         string // what "always" means
}

// Answer is what the user says.
type Answer uint8

// The answers. The zero value is a no.
const (
	Refuse  Answer = iota
	Once           // this flow
	ThisRun        // all like it, until the command ends
	Always         // and for good
)

// asker puts questions to the user, one at a time. It is safe for concurrent use.
type asker struct {
	ask      func(context.Context, Prompt) (Answer, error)
	remember func(app, rule string) error
	policy   *Policy

	ctx  context.Context // ends with the handler
	end  context.CancelFunc
	work sync.WaitGroup
	turn chan struct{}

	mu      sync.Mutex
	open    map[string]*pending
	refused map[string]time.Time // until when
	waiters int
	dropped uint64
}

// pending is a question that waits for its answer.
type pending struct {
	done   chan struct{}
	answer Answer
}

func newAsker(ask func(context.Context, Prompt) (Answer, error), remember func(app, rule string) error, p *Policy) *asker {
	ctx, end := context.WithCancel(context.Background())
	return &asker{ask: ask, remember: remember, policy: p, ctx: ctx, end: end, turn: make(chan struct{}, 1), open: map[string]*pending{}, refused: map[string]time.Time{}}
}

// may asks the user, or waits for the answer to the same question. The flow that asks may give up earlier: the question stays,
// and its answer is for the flows that come later.
func (a *asker) may(ctx context.Context, p Prompt) (Answer, error) {
	key := p.App + "\x00" + p.Rule
	a.mu.Lock()
	if until, no := a.refused[key]; no && time.Now().Before(until) {
		a.mu.Unlock()
		return Refuse, nil
	}
	q := a.open[key]
	if a.waiters >= maxWaiters || q == nil && len(a.open) >= maxAsks || a.ctx.Err() != nil {
		a.dropped++
		a.mu.Unlock()
		return Refuse, nil
	}
	a.waiters++
	defer a.left()
	if q == nil {
		q = &pending{done: make(chan struct{})}
		a.open[key] = q
		a.work.Add(1)
		go a.put(key, p, q)
	}
	a.mu.Unlock()
	select {
	case <-q.done:
		return q.answer, nil
	case <-ctx.Done():
		return Refuse, tunnel.Errorf(tunnel.TimedOut, "the user has not answered yet")
	}
}

func (a *asker) left() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiters--
}

// put shows one question when its turn has come.
func (a *asker) put(key string, p Prompt, q *pending) {
	defer a.work.Done()
	answer, silent := Refuse, true
	select {
	case a.turn <- struct{}{}:
		ctx, cancel := context.WithTimeout(a.ctx, askFor)
		got, err := a.ask(ctx, p)
		cancel()
		<-a.turn
		if err == nil {
			answer, silent = got, false
		}
	case <-a.ctx.Done():
	}
	if answer == ThisRun || answer == Always {
		a.write(p, answer)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if answer == Refuse {
		a.refuse(key, silent)
	}
	q.answer = answer
	delete(a.open, key)
	close(q.done)
}

// write adds the rule that the user's answer stands for. Where that fails the flow passes all the same: the user said yes.
func (a *asker) write(p Prompt, answer Answer) {
	rule, err := policy.ParseRule(p.Rule, policy.AllowRule, policy.Pos{})
	if err != nil {
		return
	}
	rule.Label = "asked:run"
	if answer == Always && a.remember != nil && a.remember(p.App, p.Rule) == nil {
		rule.Label = "asked:always"
	}
	_ = a.policy.add(p.App, rule)
}

func (a *asker) refuse(key string, silent bool) {
	now := time.Now()
	if len(a.refused) >= maxRefused {
		for k, until := range a.refused {
			if now.After(until) || len(a.refused) >= maxRefused {
				delete(a.refused, k)
			}
		}
	}
	stands := refusedFor
	if silent {
		stands = silentFor
	}
	a.refused[key] = now.Add(stands)
}

// close ends all questions with a no.
func (a *asker) close() {
	a.mu.Lock()
	a.end()
	a.mu.Unlock()
	a.work.Wait()
}

func (a *asker) droppedSoFar() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dropped
}

// promptFor is the question about a flow. "Always" is a rule for the name only if this machine knows it to be true.
func promptFor(o tunnel.Open, f finding) Prompt {
	p := Prompt{App: o.App, Sandbox: o.Sandbox, Network: o.Network, Addr: o.Addr, Name: f.name, Confirmed: f.confirmed}
	host := o.Addr.Addr().String()
	if f.confirmed {
		host = f.name
	}
	p.Rule = net.JoinHostPort(host, strconv.Itoa(int(o.Addr.Port()))) + "/" + o.Network
	return p
}

// promptForName is the question whether a name may be asked for.
func promptForName(o tunnel.Owner, name string) Prompt {
	name = strings.TrimSuffix(name, ".")
	return Prompt{App: o.App, Sandbox: o.Sandbox, Network: "dns", Name: name, Rule: name + "/dns"}
}
