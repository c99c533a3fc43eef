package client

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/tunnel"
)

// lookupFor bounds the lookups that one flow may cost.
const lookupFor = 5 * time.Second

// Reasons of a denial beside those of package policy.
const (
	reasonLimit  = "limit"
	reasonPaused = "paused"
	reasonAsked  = "asked" // the user said no, or nothing
)

// finding is what was found about a flow.
type finding struct {
	verdict policy.Verdict
	rule    string
	reason  string // empty for an allow

	name      string   // by which the flow goes
	confirmed bool     // and which this machine's own resolver gave the address
	names     []string // all that were heard of
	denies    policy.Question
}

// judge decides about a flow. Nothing that the edge says opens anything: its names only choose what is looked up here, and
// only among those that a rule is about.
func (h *Handler) judge(ctx context.Context, o tunnel.Open) finding {
	h.policy.notice(o.Addr.Addr(), h.here(o.Addr.Addr()))
	p := h.policy.app(o.App)
	seen, chain := h.evidence.names(o.Space, o.Sandbox, o.Addr.Addr())
	names := slices.Clone(seen)
	for _, n := range o.Names[:min(len(o.Names), tunnel.MaxNames)] {
		if n, err := hostname.Normalize(n); err == nil && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	q := policy.Question{Network: o.Network, Dst: o.Addr, Heard: names, Chain: chain, Final: true}
	f := finding{names: names}
	if len(names) > 0 {
		f.name, f.confirmed = names[0], slices.Contains(seen, names[0])
	}
	d := p.Decide(q)
	f.verdict, f.rule, f.reason, f.denies = d.Verdict, d.Rule, d.Reason, q
	if d.Verdict == policy.Allow || d.Reason == policy.ReasonGuard || d.Reason == policy.ReasonRule || d.Reason == policy.ReasonEncryptedDNS {
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, lookupFor)
	defer cancel()
	for _, n := range names {
		q.Asked = []string{n}
		named := p.Decide(q)
		if named.Verdict != policy.Allow {
			continue
		}
		if slices.Contains(seen, n) || h.confirm(ctx, o, n) {
			f.verdict, f.rule, f.reason, f.name, f.confirmed, f.denies = policy.Allow, named.Rule, "", n, true, q
			return f
		}
		f.name, f.confirmed = n, false
		if f.verdict == policy.Deny || f.verdict == policy.WouldDeny {
			f.reason, f.rule = policy.ReasonNoEvidence, "builtin:evidence"
		}
	}
	return f
}

// confirm asks this machine's own resolver whether the name has the address of the flow, now.
func (h *Handler) confirm(ctx context.Context, o tunnel.Open, name string) bool {
	if h.names == nil {
		return false
	}
	qtype := dns.TypeAAAA
	if o.Addr.Addr().Is4() {
		qtype = dns.TypeA
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(ednsSize, false)
	reply, err := h.names.Exchange(ctx, q)
	if err != nil || reply == nil {
		return false
	}
	reply.Question = q.Question // what was asked for is what counts
	a, ok := read(reply)
	if !ok {
		return false
	}
	h.evidence.learn(o.Space, o.Sandbox, a)
	return slices.ContainsFunc(a.addrs, func(r record) bool { return r.addr == o.Addr.Addr() })
}

// recheck judges the address of a socket that is about to connect, with what was found: whatever changed meanwhile (an address
// that is this machine's own now, a way by which another address got here) counts.
func (h *Handler) recheck(o tunnel.Open, f finding, addr netip.AddrPort) error {
	if netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()) != o.Addr {
		return tunnel.Errorf(tunnel.Internal, "another address than the one that was judged")
	}
	h.policy.notice(o.Addr.Addr(), h.here(o.Addr.Addr()))
	d := h.policy.app(o.App).Decide(f.denies)
	if d.Verdict == policy.Deny && (f.rule != ruleAsked || d.Reason == policy.ReasonGuard || d.Reason == policy.ReasonRule) {
		return denied(d.Reason)
	}
	return nil
}

// denied is what the edge hears: enough for its own log, and nothing about the list.
func denied(reason string) *tunnel.Error {
	return tunnel.Errorf(tunnel.Denied, "%s: the list of the user's machine does not allow it", reason)
}
