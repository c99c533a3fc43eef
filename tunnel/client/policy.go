package client

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/hostname"
)

// Rules are what the user lets the hosted side reach. Without any rule nothing passes.
type Rules struct {
	// Allow and Deny are rules in the language of docs/policy.md, from flags.
	Allow, Deny []string

	// Loopback are ports of this machine's loopback that are open, on 127.0.0.1 and ::1.
	Loopback []uint16

	// File is a policy file; its apps are apps of the hosted side. Asked is what the user answered "always" to. Either may be
	// nil.
	File, Asked *policy.File

	// Names are suffixes, in normal form, of names that may be asked for beside those that a rule covers; AllNames lets every
	// name pass.
	Names    []string
	AllNames bool

	// Audit lets everything but guarded addresses pass and records what would have been denied.
	Audit bool
}

// Policy is the user's list, compiled. It is safe for concurrent use.
type Policy struct {
	rules Rules
	host  *guard.Host
	edge  atomic.Pointer[[]netip.Addr]
	found atomic.Pointer[[]netip.Addr] // see notice

	mu    sync.RWMutex
	apps  map[string]*policy.Policy // those with rules of their own; "" for all others
	added map[string][]policy.Rule  // what the user said while we ran
	count int
}

// maxAdded bounds the rules that answers of the user add while one command runs.
const maxAdded = 1024

// NewPolicy compiles the rules. host knows the machine's own addresses, which are guarded. Errors in rules are those of
// [policy.New].
func NewPolicy(rules Rules, host *guard.Host) (*Policy, error) {
	p := &Policy{rules: rules, host: host, apps: map[string]*policy.Policy{}, added: map[string][]policy.Rule{}}
	p.edge.Store(&[]netip.Addr{})
	p.found.Store(&[]netip.Addr{})
	names := []string{""}
	for _, f := range []*policy.File{rules.File, rules.Asked} {
		if f == nil {
			continue
		}
		for _, a := range f.Apps {
			names = append(names, a.Name)
		}
	}
	for _, name := range names {
		if err := p.compile(name); err != nil {
			return nil, fmt.Errorf("compile the list of this machine: %w", err)
		}
	}
	return p, nil
}

// SetEdge says where the edge is: its addresses are guarded from now on, so that nobody goes in circles through the tunnel.
func (p *Policy) SetEdge(addrs []netip.Addr) {
	list := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		list[i] = a.Unmap().WithZone("")
	}
	p.edge.Store(&list)
}

// Audit reports whether the list only watches.
func (p *Policy) Audit() bool { return p.app("").Mode() == policy.ModeAudit }

// Warnings returns what is allowed but worth a second look.
func (p *Policy) Warnings() []*policy.Error {
	return p.app("").Warnings()
}

// Empty reports whether there is no rule at all, so that nothing passes unless the list only watches.
func (p *Policy) Empty() bool {
	r := p.rules
	has := func(f *policy.File) bool {
		return f != nil && (len(f.Allow)+len(f.Deny) > 0 || slices.ContainsFunc(f.Apps, func(a policy.App) bool { return len(a.Allow)+len(a.Deny) > 0 }))
	}
	return len(r.Allow)+len(r.Deny)+len(r.Loopback) == 0 && !has(r.File) && !has(r.Asked)
}

// own returns what is guarded beside the addresses that always are. It is called for each decision.
func (p *Policy) own() []netip.Addr {
	var host []netip.Addr
	if p.host != nil {
		host = p.host.Addrs()
	}
	edge, found := *p.edge.Load(), *p.found.Load()
	if len(edge)+len(found) == 0 {
		return host
	}
	return slices.Concat(host, edge, found)
}

// maxFound bounds the addresses that are known to lead back here. It is more than can be dialled at one time.
const maxFound = 1024

// notice guards an address that leads back to this machine, or guards it no more. The kernel knows it better than a list of
// interfaces that was read some seconds ago: a VPN may have come up since, and whole networks may be routed to the machine (the
// type local of ip-route(8)).
func (p *Policy) notice(addr netip.Addr, own bool) {
	if slices.Contains(*p.found.Load(), addr) == own {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*p.found.Load()), func(a netip.Addr) bool { return a == addr })
	if own {
		list = append(list[max(0, len(list)-maxFound+1):], addr)
	}
	p.found.Store(&list)
}

// app returns the policy for an app of the hosted side. What the edge calls an app chooses among lists that the user wrote,
// and no more: an app that none is about has the list for all.
func (p *Policy) app(name string) *policy.Policy {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if own := p.apps[name]; own != nil {
		return own
	}
	return p.apps[""]
}

// add lets an app reach what a rule says, until the command ends.
func (p *Policy) add(app string, rule policy.Rule) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count >= maxAdded {
		return fmt.Errorf("add a rule: there are %d already", maxAdded)
	}
	p.added[app] = append(p.added[app], rule)
	if err := p.compileLocked(app); err != nil {
		p.added[app] = p.added[app][:len(p.added[app])-1]
		return fmt.Errorf("add a rule: %w", err)
	}
	p.count++
	return nil
}

func (p *Policy) compile(app string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.compileLocked(app)
}

func (p *Policy) compileLocked(app string) error {
	c := policy.Config{Allow: p.rules.Allow, Deny: p.rules.Deny, File: p.rules.File, HostAddrs: p.own, PrivateByName: true}
	if _, known := c.File.App(app); known {
		c.App = app
	}
	switch {
	case p.rules.Audit:
		c.Mode = policy.ModeAudit
	case c.File == nil || c.File.Mode == "":
		c.Mode = policy.ModeEnforce
	}
	for _, port := range p.rules.Loopback {
		c.More = append(c.More, policy.Rule{
			Target: policy.Target{Kind: policy.NameTarget, Name: policy.HostName}, Label: "flag:allow-loopback",
			Ports: policy.Ports{Ranges: []policy.PortRange{{From: port, To: port}}},
		})
	}
	if asked, ok := p.rules.Asked.App(app); ok {
		c.More = append(c.More, asked.Allow...)
	}
	c.More = append(c.More, p.added[app]...)
	compiled, err := policy.New(c)
	if err != nil {
		return err
	}
	p.apps[app] = compiled
	return nil
}

// mayAsk judges the question for a name, of whatever type.
func (p *Policy) mayAsk(app, name string, qtype uint16) policy.NameDecision {
	d := p.app(app).DecideName(name, qtype)
	if d.Verdict == policy.Allow || d.Reason != policy.ReasonDNSBlocked {
		return d
	}
	if n, err := hostname.Labels(name); p.rules.AllNames || err == nil && slices.ContainsFunc(p.rules.Names, func(s string) bool {
		return n == s || hostname.Under(n, s)
	}) {
		return policy.NameDecision{Verdict: policy.Allow, Rule: "flag:dns"}
	}
	return d
}

// ParseNames reads the values of --dns: suffixes, or "all".
func ParseNames(list []string) (names []string, all bool, err error) {
	for _, s := range list {
		if s == "all" {
			all = true
			continue
		}
		n, err := hostname.FromUser(trimWildcard(s))
		if err != nil {
			return nil, false, fmt.Errorf("dns suffix: %w", err)
		}
		names = append(names, n)
	}
	return names, all, nil
}

// trimWildcard takes *.corp.example and .corp.example for what they are meant as.
func trimWildcard(s string) string {
	if len(s) > 2 && s[:2] == "*." {
		return s[2:]
	}
	if len(s) > 1 && s[0] == '.' {
		return s[1:]
	}
	return s
}

// LocalAddrs returns the addresses that are this machine in one way or another: those of its interfaces, and inside a
// container the gateways, behind which its host is.
func LocalAddrs() ([]netip.Addr, error) {
	own, err := guard.HostAddrs()
	gateways, gatewayErr := containerGateways()
	return append(own, gateways...), errors.Join(err, gatewayErr)
}
