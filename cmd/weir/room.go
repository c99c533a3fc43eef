//go:build linux && !client

package main

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/resolver"
	"github.com/weir-dev/weir/tunnel"
)

// room is where the flows of one sandbox or container are judged: its policy, its names and its gate, which belong together
// and to nobody else.
type room struct {
	app, sandbox string
	hostIPv6     bool          // the host reaches IPv6
	edge         tunnel.Opener // the way to the tunnel's clients; nil where there is no tunnel

	// tunnelAlias are the addresses inside that stand for the loopback of the user's machine.
	tunnelAlias map[netip.Addr]netip.Addr
	tunnelLost  atomic.Uint64 // datagrams for which there was no room on the way there

	policy *policy.Policy
	events event.Sink
	memory *resolver.Memory
	dns    *resolver.Server
	gate   *flow.Gate
}

func (r *room) emit(details event.Details) {
	r.events.Emit(&event.Event{Time: time.Now(), App: r.app, Sandbox: r.sandbox, Details: details})
}

// openResolver builds the room's DNS on the host's resolvers, and on those of the tunnel's clients for names whose route leads
// there; what each says is trusted for evidence of its own route. Without a tunnel the questions of its routes fail, they are
// never asked elsewhere. local are names that are answered here.
func (r *room) openResolver(host resolver.Upstream, ipv6 bool, local map[string][]netip.Addr, log logrus.FieldLogger) {
	r.memory = resolver.NewMemory(resolver.Limits{}, time.Now)
	ways := map[string]resolver.Upstream{"direct": host}
	for _, route := range r.policy.Routes() {
		via, ok := isTunnel(route)
		switch {
		case ok && r.edge != nil:
			ways[route] = tunnelResolver(r.edge, via)
		case route != "direct":
			ways[route] = resolver.Down{Err: errNoTunnel}
		}
	}
	r.dns = &resolver.Server{
		Upstream: ways[r.policy.Route()], Upstreams: ways, Memory: r.memory, Route: r.policy.Route(), Enforce: r.policy.Mode() == policy.ModeEnforce,
		Decide: r.decideName, DecideChain: r.decideChain, Answer: r.answerAllowed, Record: r.recordQuery,
		Alert:    func(domain string) { r.emit(&event.Alert{What: "budget", Subject: domain}) },
		StripECH: r.policy.StripECH(), IPv6: ipv6, Local: local, Log: log,
	}
}

// openGate builds the gate; what only some doors have is set afterwards.
func (r *room) openGate(door string, out flow.Dialer) {
	routes := map[string]flow.Dialer{"direct": out}
	for _, route := range r.policy.Routes() {
		if via, ok := isTunnel(route); ok && r.edge != nil {
			routes[route] = &tunnelRoute{r.edge, via, r.tunnelAlias, &r.tunnelLost}
		}
	}
	r.gate = &flow.Gate{
		App: r.app, Sandbox: r.sandbox, Door: door,
		Policy: r.policy,
		Names:  flow.Names{Recall: r.memory.Recall, Confirm: r.dns.Confirm, Hold: r.memory.Hold},
		Routes: routes,
		DNS:    r.watchDNS, Events: r.events,
	}
}
