package client

import (
	"net/netip"
	"slices"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Routes returns what the list lets pass, as a hint for an edge that has to choose between clients: nil, which stands for
// everything, where the list only watches, or is longer than an edge takes. It gives no right and hides nothing that a client
// would not say of itself: names and networks of the allow rules.
func (p *Policy) Routes() []wire.Route {
	if p.Audit() || p.rules.AllNames {
		return nil
	}
	var routes []wire.Route
	add := func(r policy.Rule) {
		var ports []wire.Ports
		for _, x := range r.Ports.Ranges {
			ports = append(ports, wire.Ports{First: x.From, Last: x.To})
		}
		if len(ports) > wire.MaxPorts {
			ports = nil
		}
		for _, route := range routesOf(r.Target) {
			route.Ports = ports
			routes = append(routes, route)
		}
	}
	for i, text := range p.rules.Allow {
		if r, err := policy.ParseRule(text, policy.AllowRule, policy.Pos{Line: i + 1}); err == nil {
			add(r)
		}
	}
	for _, f := range []*policy.File{p.rules.File, p.rules.Asked} {
		if f == nil {
			continue
		}
		for _, r := range f.Allow {
			add(r)
		}
		for _, a := range f.Apps {
			for _, r := range a.Allow {
				add(r)
			}
		}
	}
	for _, n := range p.rules.Names {
		routes = append(routes, wire.Route{Suffix: n})
	}
	if len(routes) > wire.MaxRoutes || slices.ContainsFunc(routes, func(r wire.Route) bool { return r.Suffix == "." }) {
		return nil
	}
	return routes
}

// routesOf returns what a target covers; "." for groups that cover more than can be listed.
func routesOf(t policy.Target) []wire.Route {
	switch t.Kind {
	case policy.PrefixTarget:
		return []wire.Route{{Prefix: t.Prefix}}
	case policy.NameTarget, policy.SuffixTarget:
		if t.Name == policy.HostName {
			return nil
		}
		return []wire.Route{{Suffix: t.Name}}
	}
	if t.Name != "@private" {
		return []wire.Route{{Suffix: "."}}
	}
	var routes []wire.Route
	for _, p := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"} {
		routes = append(routes, wire.Route{Prefix: netip.MustParsePrefix(p)})
	}
	return routes
}
