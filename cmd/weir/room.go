//go:build linux && !client

package main

import (
	"net/netip"
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

	policy *policy.Policy
	events event.Sink
	memory *resolver.Memory
	dns    *resolver.Server
	gate   *flow.Gate
}

func (r *room) emit(details event.Details) {
	r.events.Emit(&event.Event{Time: time.Now(), App: r.app, Sandbox: r.sandbox, Details: details})
}

// openResolver builds the room's DNS on an upstream that is trusted for evidence. Where the route is not direct, the upstream
// is not the host's: without a tunnel its questions fail, they are never asked elsewhere. local are names that are answered
// here.
func (r *room) openResolver(upstream resolver.Upstream, ipv6 bool, local map[string][]netip.Addr, log logrus.FieldLogger) {
	r.memory = resolver.NewMemory(resolver.Limits{}, time.Now)
	if r.policy.Route() != "direct" {
		upstream = resolver.Down{Err: errNoTunnel}
	}
	r.dns = &resolver.Server{
		Upstream: upstream, Memory: r.memory, Route: r.policy.Route(), Enforce: r.policy.Mode() == policy.ModeEnforce,
		Decide: r.decideName, DecideChain: r.decideChain, Answer: r.policy.AnswerAllowed, Record: r.recordQuery,
		Alert:    func(domain string) { r.emit(&event.Alert{What: "budget", Subject: domain}) },
		StripECH: r.policy.StripECH(), IPv6: ipv6, Local: local, Log: log,
	}
}

// openGate builds the gate; what only some doors have is set afterwards. A nil edge is no way out: flows for it are denied.
func (r *room) openGate(door string, out flow.Dialer, edge tunnel.Opener) {
	routes := map[string]flow.Dialer{"direct": out}
	for _, route := range r.policy.Routes() {
		if via, ok := isTunnel(route); ok && edge != nil {
			routes[route] = &tunnelRoute{edge, via}
		}
	}
	r.gate = &flow.Gate{
		App: r.app, Sandbox: r.sandbox, Door: door,
		Policy: r.policy,
		Names:  flow.Names{Recall: r.memory.Recall, Confirm: r.confirm, Hold: r.memory.Hold},
		Routes: routes,
		DNS:    r.watchDNS, Events: r.events,
	}
}
