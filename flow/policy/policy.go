package policy

import (
	"net/netip"
	"sync/atomic"
)

// Mode values of Config.Mode and the file.
const (
	ModeAudit   = "audit"
	ModeEnforce = "enforce"
)

// Config is what a policy is made from.
type Config struct {
	Mode        string   // ModeAudit, ModeEnforce, or "" for what the file says, else for what the rules imply
	Allow, Deny []string // rules from flags; flag:N counts the allows first and goes on with the denies
	File        *File    // nil = none
	App         string   // the app whose part of File applies; "" = only its defaults

	// Route is the default route; "" = what the file says for the app, else "direct".
	Route string

	// HostAddrs returns the host's own addresses, now (guard.Host.Addrs). It is called for every decision. nil = none.
	HostAddrs func() []netip.Addr
	// Gateway are weir's own addresses inside the sandbox: guarded like the host's.
	Gateway []netip.Addr
	// HostPorts are ports of the host's loopback that are open, each exactly.
	HostPorts []uint16
	// Search are the search domains that the sandbox's resolver library may append to names.
	Search []string
}

// Policy is the compiled policy of one app. It is safe for concurrent use.
type Policy struct {
	mode      string
	warnings  []string
	digest    string
	hostAddrs func() []netip.Addr
	gateway   []netip.Addr
	search    []string
	now       atomic.Pointer[matcher] // with the install rules until InstallDone, then without
	after     *matcher
}

// New is a skeleton until the matcher is in.
func New(c Config) (*Policy, error) { panic("skeleton") }

// Decide judges a flow.
func (p *Policy) Decide(q Question) Decision { panic("skeleton") }

// DecideName judges a DNS question.
func (p *Policy) DecideName(name string, qtype uint16) NameDecision { panic("skeleton") }

// AnswerAllowed says whether an address may stand in an answer for the name.
func (p *Policy) AnswerAllowed(name string, addr netip.Addr) (ok bool, reason string) {
	panic("skeleton")
}

// Mode returns ModeAudit or ModeEnforce.
func (p *Policy) Mode() string { return p.mode }

// Digest identifies the compiled rules.
func (p *Policy) Digest() string { return p.digest }

// StripECH says whether ech is removed from HTTPS and SVCB answers.
func (p *Policy) StripECH() bool { return p.mode == ModeEnforce }

// InstallDone ends the time of the install rules, for good.
func (p *Policy) InstallDone() { p.now.Store(p.after) }

type matcher struct{}
