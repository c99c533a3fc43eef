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
func (d *dataPath) decideName(name string, qtype uint16) resolver.Verdict {
	return d.verdict(d.policy.DecideName(name, qtype))
}

// decideChain judges the members of an answer's CNAME chain, which count for denies only.
func (d *dataPath) decideChain(names []string) resolver.Verdict {
	for _, name := range names {
		if n := d.policy.DecideChain(name); n.Verdict != policy.Allow {
			return d.verdict(n)
		}
	}
	return resolver.Verdict{Allow: true}
}

func (d *dataPath) verdict(n policy.NameDecision) resolver.Verdict {
	v := resolver.Verdict{Allow: n.Verdict != policy.Deny, WouldDeny: n.Verdict == policy.WouldDeny, Rule: n.Rule, Reason: n.Reason}
	switch {
	case n.Expansion:
		v.Rule = expansionRule
	case v.Allow && (n.Route != d.dns.Route || d.gate.Routes[n.Route] == nil): // its route is not there, or a question by another one would tell the wrong resolver
		v.Allow, v.WouldDeny, v.Reason = false, false, "no-tunnel"
	}
	return v
}

func (d *dataPath) confirm(ctx context.Context, route, name string, addr netip.Addr) bool {
	return route == d.dns.Route && d.dns.Confirm(ctx, name, addr)
}

// recordQuery turns a question into an event. What weir asks for itself is not the program's doing.
func (d *dataPath) recordQuery(q resolver.Query) {
	if q.Confirm {
		return
	}
	d.emit(&event.DNSQuery{
		Hostname: q.Hostname, QType: q.Qtype, Server: q.Server, RCode: q.Rcode, Answers: q.Answers,
		Route: q.Route, Verdict: q.Verdict, Rule: q.Rule, Reason: q.Reason, Duration: q.Duration,
	})
}

// watchDNS carries a flow to a DNS server of the program's choice.
func (d *dataPath) watchDNS(ctx context.Context, network string, server netip.AddrPort, client, upstream net.Conn) (up, down int64, err error) {
	up, down, err = d.dns.Watch(ctx, network, server, client, upstream)
	if errors.Is(err, resolver.ErrNotDNS) {
		err = flow.ErrNotDNS
	}
	return up, down, err
}
