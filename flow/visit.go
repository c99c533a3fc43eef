package flow

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
)

// visit is one flow on its way through the gate: what is known of it so far.
type visit struct {
	*Gate
	Arrival
	id    string
	start time.Time

	// cancel ends the flow; forget lets go of the names of its address. Both are set by enter.
	cancel context.CancelCauseFunc
	forget func()

	// dst is where the flow goes: Dst, or the host's loopback where Dst is an alias of it.
	dst netip.AddrPort

	// decision is the last word of the policy, hint the claim it knew.
	decision policy.Decision
	hint     sniff.Hint
	asked    []string

	// dialed is the route that the upstream was opened on, empty before.
	dialed string

	// by is who carries the flow, where that is not weir itself: the tunnel's client.
	by string

	// settled says that the address alone decided: no claim can change the verdict.
	settled bool

	// process delivers the owner once; nil when nobody looks.
	process chan *event.Process

	recorded bool

	// question is what was asked last with the claim known, revoked what a later policy answers to it: see Recheck.
	question atomic.Pointer[policy.Question]
	revoked  atomic.Pointer[policy.Decision]

	// mayHaveSent says that the flow is one of those that Drain waits for.
	mayHaveSent bool

	// told is closed when the network-connect that waited for the owner is written; nil when none waits.
	told chan struct{}
}

func (g *Gate) newFlow(a Arrival) *visit {
	f := &visit{Gate: g, Arrival: a, dst: a.Dst, start: time.Now()}
	f.id = g.Sandbox + "-" + strconv.FormatUint(g.serial.Add(1), 10)
	if host, ok := g.HostAlias[a.Dst.Addr()]; ok {
		f.dst = netip.AddrPortFrom(host, a.Dst.Port())
	}
	if g.Process == nil || a.Inbound {
		return f
	}
	if g.looking.Add(1) > maxLooking {
		g.looking.Add(-1)
		return f
	}
	f.process = make(chan *event.Process, 1)
	g.Process(a.Network, a.Src, a.Dst, func(p *event.Process) {
		g.looking.Add(-1)
		f.process <- p
	})
	return f
}

// awaitOwner waits for the owner where one is looked for, but not for long.
func (f *visit) awaitOwner(limit time.Duration) {
	if f.process == nil || len(f.process) > 0 {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case p := <-f.process:
		f.process <- p
	case <-timer.C:
	}
}

// judge asks the policy about the flow as it is known now. final says that the claim is as known as it will get.
func (f *visit) judge(hint sniff.Hint, final bool) policy.Decision {
	f.hint = hint
	routes := f.Policy.Routes()
	best, question := f.judgeBy(routes[0], len(routes) > 1, final)
	for _, route := range routes[1:] {
		if d, q := f.judgeBy(route, true, final); better(d, best) {
			best, question = d, q
		}
	}
	if final && f.dialed != "" && best.Verdict != policy.Deny && best.Route != f.dialed {
		best.Verdict, best.Reason = policy.Deny, policy.ReasonNameMismatch // the claim leads elsewhere than the address did
	}
	f.decision, f.asked = best, question.Asked
	if final && best.Verdict != policy.Deny {
		f.question.Store(question)
	}
	if !final {
		f.settled = best.Settled
	}
	return best
}

// judgeBy asks with the evidence that came by one route: routes never vouch for each other.
func (f *visit) judgeBy(route string, several, final bool) (policy.Decision, *policy.Question) {
	asked, chain, heard := f.Names.Recall(route, f.Dst.Addr())
	q := &policy.Question{
		Network: f.Network, Dst: f.dst,
		Asked: asked, Chain: chain, Heard: heard,
		Claim: f.hint.Host, ClaimSource: f.hint.Source, Malformed: f.hint.Malformed, ECH: f.hint.ECH,
		Final: final,
	}
	if several {
		q.Route = route
	}
	if f.hint.Protocol == sniff.ProtocolHTTPConnect {
		q.ConnectIP, q.ConnectPort = f.hint.HostIP, f.hint.Port
	}
	return f.Policy.Decide(*q), q
}

// better reports whether d says more for the flow than than: an allow, else a denial that a claim may still lift. A deny
// rule or a guard is the same by every route.
func better(d, than policy.Decision) bool {
	if d.Verdict != than.Verdict {
		return d.Verdict == policy.Allow || than.Verdict == policy.Deny
	}
	return d.Verdict != policy.Allow && d.AskName && !than.AskName
}

// confirm is the one question to our own upstream that a claim without evidence is worth (contract, section 3, rule 3).
func (f *visit) confirm(ctx context.Context, hint sniff.Hint) policy.Decision {
	d := f.judge(hint, true)
	if d.Verdict == policy.Allow || !d.AskName || hint.Host == "" {
		return d
	}
	if !f.Names.Confirm(ctx, d.Route, hint.Host, f.Dst.Addr()) {
		return d
	}
	return f.judge(hint, true)
}

// dial opens the upstream on the decision's route.
func (f *visit) dial(ctx context.Context) (net.Conn, error) {
	if f.dials.Add(1) > int64(positive(f.MaxDials, DefaultMaxDials)) {
		f.dials.Add(-1)
		return nil, errDials
	}
	defer f.dials.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, positive(f.DialTimeout, DefaultDialTimeout))
	defer cancel()
	f.dialed = f.decision.Route
	return f.travel(ctx, f.Routes[f.decision.Route])
}

var errDials = errors.New("too many dials in flight")

// refusalWait is how long a denial is kept from the program while its owner is looked for: who is refused closes the socket,
// and then nobody can tell any more whose it was. A lookup takes about a millisecond.
const refusalWait = 50 * time.Millisecond

// refuse records a denial and shows it to the program.
func (f *visit) refuse(d policy.Decision) {
	f.decision = d
	f.awaitOwner(refusalWait)
	f.record()
	f.Reject(Denied)
}

// routed turns a decision for a route that does not exist into a denial: no tunnel means no way out, never another one.
func (f *visit) routed(d policy.Decision) policy.Decision {
	if d.Verdict != policy.Deny && f.Routes[d.Route] == nil {
		d.Verdict, d.Reason = policy.Deny, "no-tunnel"
		f.decision = d
	}
	return d
}

// refusal says what a failed dial looks like from inside.
func refusal(err error) Reason {
	switch {
	case errors.Is(err, errDials):
		return Denied
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return HostUnreachable
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return NetUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return TimedOut
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Denied
	}
	return Refused
}
