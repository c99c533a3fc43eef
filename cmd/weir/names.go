//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/resolver"
)

// expansionRule marks the denial of a name that a resolver library made up by adding a search domain. It is recorded, but
// nobody is told and --fail-on does not count it.
const expansionRule = "builtin:search-expansion"

// decideName joins the resolver to the policy.
func (r *room) decideName(name string, qtype uint16) resolver.Verdict {
	return r.verdict(r.policy.DecideName(name, qtype))
}

// decideChain judges the members of an answer's CNAME chain, which count for denies only.
func (r *room) decideChain(names []string) resolver.Verdict {
	for _, name := range names {
		if n := r.policy.DecideChain(name); n.Verdict != policy.Allow {
			return r.verdict(n)
		}
	}
	return resolver.Verdict{Allow: true}
}

func (r *room) verdict(n policy.NameDecision) resolver.Verdict {
	v := resolver.Verdict{Allow: n.Verdict != policy.Deny, WouldDeny: n.Verdict == policy.WouldDeny, Rule: n.Rule, Reason: n.Reason, Route: n.Route}
	_, v.Confined = isTunnel(n.Route)
	v.NoIPv6 = !v.Confined && !r.hostIPv6
	switch {
	case n.Expansion:
		v.Rule = expansionRule
	case v.Allow && r.gate.Routes[n.Route] == nil: // a question by another route would tell the wrong resolver
		v.Allow, v.WouldDeny, v.Reason = false, false, "no-tunnel"
	}
	return v
}

// answerAllowed judges an address in an answer. weir's own names for what no other name may stand for are answered here, never
// by an upstream.
func (r *room) answerAllowed(name string, addr netip.Addr) (keep bool, reason string) {
	if _, alias := r.tunnelAlias[addr.Unmap().WithZone("")]; alias {
		return false, policy.ReasonRebinding
	}
	return r.policy.AnswerAllowed(name, addr)
}

// recordQuery turns a question into an event. What weir asks for itself is not the program's doing.
func (r *room) recordQuery(q resolver.Query) {
	if q.Confirm {
		return
	}
	r.emit(&event.DNSQuery{
		Hostname: q.Hostname, QType: q.Qtype, Server: q.Server, RCode: q.Rcode, Answers: q.Answers,
		Route: q.Route, Client: q.Client, Verdict: q.Verdict, Rule: q.Rule, Reason: q.Reason, Duration: q.Duration,
	})
}

// watchDNS carries a flow to a DNS server of the program's choice.
func (r *room) watchDNS(ctx context.Context, to flow.DNSServer, client, upstream net.Conn) (up, down int64, err error) {
	at := resolver.Explicit{Network: to.Network, Server: to.Addr, Route: to.Route, Client: to.By}
	up, down, err = r.dns.Watch(ctx, at, client, upstream)
	if errors.Is(err, resolver.ErrNotDNS) {
		err = flow.ErrNotDNS
	}
	return up, down, err
}
