package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
)

// Values of Config.Mode and of mode in the file.
const (
	ModeAudit   = "audit"
	ModeEnforce = "enforce"
)

// DefaultRoute is the route of everything that says no other.
const DefaultRoute = "direct"

// Config is what a policy is made from.
type Config struct {
	Mode        string   // ModeAudit, ModeEnforce, or "" for what the file says, else for what the rules imply
	Allow, Deny []string // rules from flags; flag:N counts the allows first and goes on with the denies
	File        *File    // nil = none
	App         string   // the app whose part of File applies; "" = only its defaults

	// More are rules from elsewhere, parsed already.
	More []Rule
	// PrivateByName makes private addresses ordinary where names lead to them, and in audit mode: on a user's own machine, whose
	// own resolver gave the answer, they are what a tunnel is for.
	PrivateByName bool

	// Route is the default route; "" = what the file says for the app, else DefaultRoute.
	Route string

	// HostAddrs returns the host's own addresses, now (guard.Host.Addrs). It is called for every decision. nil = none.
	HostAddrs func() []netip.Addr
	// Gateway are weir's own addresses inside the sandbox: guarded like the host's.
	Gateway []netip.Addr
	// HostPorts are ports of the host's loopback that are open, each exactly. They are no rules: alone they leave the
	// mode and the default as they are.
	HostPorts []uint16
	// Search are the search domains that the sandbox's resolver library may append to names.
	Search []string
}

// Policy is the compiled policy of one app. It is safe for concurrent use.
type Policy struct {
	mode      string
	route     string
	routes    []string
	warnings  []*Error
	digest    string
	hostAddrs func() []netip.Addr
	gateway   []netip.Addr
	search    []string
	near      bool                    // Config.PrivateByName
	active    atomic.Pointer[matcher] // with the install rules until InstallDone, then after
	after     *matcher
}

// New compiles the policy of one app. What is wrong in rules is an *Error or [Errors]; so are an app that the file does
// not know while it has no defaults either, and two rules that send the same flow by different routes.
func New(c Config) (*Policy, error) {
	app, known := c.File.App(c.App)
	if c.File != nil && c.App != "" && !c.File.Knows(c.App) {
		return nil, unknownApp(c.File, c.App)
	}
	p := &Policy{hostAddrs: c.HostAddrs, gateway: c.Gateway, search: searchDomains(c.Search), near: c.PrivateByName}
	if p.route = firstOf(c.Route, app.Route, DefaultRoute); p.route == c.Route {
		if msg, fix := checkRoute(c.Route); msg != "" {
			return nil, &Error{Msg: msg, Fix: strings.Replace(fix, "via ", "", 1)}
		}
	}
	rules, install, err := collect(c, app)
	if err != nil {
		return nil, err
	}
	if err := p.setMode(c, len(rules)+len(install)); err != nil {
		return nil, err
	}
	if c.File != nil {
		p.warnings = append(p.warnings, c.File.Warnings...)
		if c.App != "" && !known {
			p.warnings = append(p.warnings, &Error{File: c.File.Name, Line: 1, Column: 1, Msg: fmt.Sprintf("no app %q in the file: only its defaults apply", c.App)})
		}
	}
	return p, p.compile(c, rules, install)
}

// compile makes the two matchers, with and without the install rules. What the default is depends on all rules: when
// the install rules end, nothing opens that was closed.
func (p *Policy) compile(c Config, rules, install []Rule) error {
	isAllow := func(r Rule) bool { return r.Action == AllowRule }
	openPublic := len(rules) > 0 && !slices.ContainsFunc(rules, isAllow) && len(install) == 0
	rules = slices.Concat(rules, hostPorts(c.HostPorts))
	during, err := compile(slices.Concat(rules, install), c.File, p.route)
	if err != nil {
		return err
	}
	after, err := compile(rules, c.File, p.route)
	if err != nil {
		return err
	}
	during.openPublic, after.openPublic = openPublic, openPublic
	p.after = after
	p.active.Store(during)
	p.setRoutes()
	sum := sha256.New()
	fmt.Fprintf(sum, "mode=%s route=%s\n%s\nafter install\n%s\n", p.mode, p.route,
		strings.Join(during.lines(), "\n"), strings.Join(after.lines(), "\n"))
	p.digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return nil
}

func (p *Policy) setRoutes() {
	p.routes = []string{p.route}
	for _, e := range p.active.Load().allow.all {
		if !slices.Contains(p.routes, e.route) {
			p.routes = append(p.routes, e.route)
		}
	}
	sort.Strings(p.routes[1:])
}

func (p *Policy) setMode(c Config, rules int) error {
	p.mode = c.Mode
	if p.mode == "" && c.File != nil {
		p.mode = c.File.Mode
	}
	switch {
	case p.mode == ModeAudit || p.mode == ModeEnforce:
	case p.mode != "":
		return &Error{Msg: fmt.Sprintf("unknown mode %q", p.mode), Fix: "write enforce or audit"}
	case rules == 0:
		p.mode = ModeAudit
	default:
		p.mode = ModeEnforce
	}
	return nil
}

// collect joins the rules of the file's defaults, of the app and of the flags.
func collect(c Config, app App) (rules, install []Rule, err error) {
	if c.File != nil {
		rules = slices.Concat(c.File.Allow, c.File.Deny, app.Allow, app.Deny)
	}
	var errs Errors
	flags := 0
	for _, list := range []struct {
		texts  []string
		action Action
	}{{c.Allow, AllowRule}, {c.Deny, DenyRule}} {
		for _, text := range list.texts {
			flags++
			r, err := ParseRule(text, list.action, Pos{File: FlagFile, Line: flags, Column: 1})
			if err != nil {
				errs = append(errs, err.(*Error))
				continue
			}
			rules = append(rules, r)
		}
	}
	if len(errs) > 0 {
		return nil, nil, errs
	}
	return append(rules, c.More...), app.InstallAllow, nil
}

// hostPorts returns the allows that --host-port stands for.
func hostPorts(ports []uint16) []Rule {
	var rules []Rule
	for _, port := range ports {
		rules = append(rules, Rule{
			Target: Target{Kind: NameTarget, Name: HostName}, Ports: Ports{Ranges: []PortRange{{port, port}}},
			Route: DefaultRoute, Label: "builtin:host-port",
		})
	}
	return rules
}

func unknownApp(f *File, app string) error {
	names := make([]string, len(f.Apps))
	for i, a := range f.Apps {
		names[i] = a.Name
	}
	fix := "add it, or name one of " + strings.Join(names, ", ")
	if near := nearest(app, names); near != "" {
		fix = "write --name " + near
	}
	return &Error{File: f.Name, Line: 1, Column: 1, Msg: fmt.Sprintf("no app %q in the file, and no defaults", app), Fix: fix}
}

func searchDomains(list []string) []string {
	var out []string
	for _, s := range list {
		if s = strings.ToLower(strings.Trim(s, ".")); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// Mode returns ModeAudit or ModeEnforce.
func (p *Policy) Mode() string { return p.mode }

// Route returns the default route of the app.
func (p *Policy) Route() string { return p.route }

// Routes returns every route that a flow may take, the default first. The slice is shared: do not change it.
func (p *Policy) Routes() []string { return p.routes }

// Digest identifies the compiled rules, the mode and the default route: "sha256:" and 64 hexadecimal digits. Comments,
// order and spelling of the rules do not count.
func (p *Policy) Digest() string { return p.digest }

// Warnings returns what is allowed but worth a second look. The slice is shared: do not change it.
func (p *Policy) Warnings() []*Error { return p.warnings }

// StripECH reports whether ech is to be removed from HTTPS and SVCB answers, so that names stay readable.
func (p *Policy) StripECH() bool { return p.mode == ModeEnforce }

// InstallDone ends the time of the install rules, for good. Flows that are open stay.
func (p *Policy) InstallDone() { p.active.Store(p.after) }
