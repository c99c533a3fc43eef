package policy

import (
	"net/netip"
	"strings"

	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/hostname"
)

// nameOrOwner looks up a name as it was asked for, and without its service labels.
func (t *table) nameOrOwner(n string, k key) *entry {
	if e := t.name(n, k); e != nil {
		return e
	}
	if o := hostname.Owner(n); o != n {
		return t.name(o, k)
	}
	return nil
}

// question is the key of a DNS question under deny rules: those that cover everything, or /dns.
var question = key{proto: DNS}

// DecideName judges a DNS question. In enforce mode a name passes only when an allow covers it, on whatever port:
// otherwise the reason is dns-blocked, the answer NXDOMAIN, and the question never leaves the host. name may have a
// final dot and upper case letters. qtype is the RR type of the question; the policy judges all types alike.
func (p *Policy) DecideName(name string, qtype uint16) NameDecision {
	d := p.decideName(name)
	if d.Route == "" {
		d.Route = p.route
	}
	if p.mode == ModeAudit && d.Verdict == Deny {
		d.Verdict = WouldDeny
	}
	return d
}

func (p *Policy) decideName(name string) NameDecision {
	m := p.active.Load()
	n, err := hostname.Labels(name)
	if err != nil && name != "" && name != "." {
		return NameDecision{Reason: ReasonMalformed, Rule: builtinDefault}
	}
	if n == HostName {
		return NameDecision{Verdict: Allow, Rule: "builtin:host"}
	}
	if e := m.deny.nameOrOwner(n, question); e != nil {
		return NameDecision{Reason: ReasonRule, Rule: e.label}
	}
	if e := m.deny.everyName(true); e != nil {
		return NameDecision{Reason: ReasonRule, Rule: e.label}
	}
	e := m.allow.name(hostname.Owner(n), key{anyName: true})
	if e != nil && (!dohName(n) || e.target.Kind == NameTarget) {
		return NameDecision{Verdict: Allow, Rule: e.label, Route: e.route}
	}
	wide := m.allow.everyName(false)
	if dohName(n) && (e != nil || wide != nil || m.openPublic) {
		return NameDecision{Reason: ReasonEncryptedDNS, Rule: builtinDNS}
	}
	switch {
	case wide != nil:
		return NameDecision{Verdict: Allow, Rule: wide.label, Route: wide.route}
	case m.openPublic:
		return NameDecision{Verdict: Allow, Rule: builtinPublic}
	}
	return NameDecision{Reason: ReasonDNSBlocked, Rule: builtinDefault, Expansion: p.expansion(n)}
}

// everyName returns a rule for a group that covers all names: @any and @public. A deny of @public does not deny names,
// because they may lead to private addresses, unless it is about questions and nothing else.
func (t *table) everyName(deny bool) *entry {
	for _, e := range t.groups {
		switch {
		case e.target.Name != "@any" && e.target.Name != "@public":
		case !deny, e.protos == DNS, e.target.Name == "@any" && question.accepts(e):
			return e
		}
	}
	return nil
}

// expansion reports whether a name ends in a search domain: a resolver library put it there.
func (p *Policy) expansion(n string) bool {
	for _, s := range p.search {
		if hostname.Under(n, s) {
			return true
		}
	}
	return false
}

// AnswerAllowed says whether an address may stand in an answer to a question for the name (the one that was asked, not
// a member of its CNAME chain). Guarded addresses never may. Private ones may for names that are not public, and for
// public names with an address rule that opens them or a rule with exactly that name and explicit ports. The reason of
// a refusal is rebinding. It is the same in both modes. With [Config.PrivateByName] private addresses always may, and guarded
// ones that a rule opens.
func (p *Policy) AnswerAllowed(name string, addr netip.Addr) (ok bool, reason string) {
	m := p.active.Load()
	n := hostname.Owner(strings.ToLower(strings.TrimSuffix(name, ".")))
	addr = addr.Unmap().WithZone("")
	if !p.answerable(m, n, addr) {
		return false, ReasonRebinding
	}
	for _, in := range guard.Embedded(addr) {
		if !p.answerable(m, n, in) {
			return false, ReasonRebinding
		}
	}
	return true, ""
}

func (p *Policy) answerable(m *matcher, name string, addr netip.Addr) bool {
	class, bits := p.special(addr)
	switch {
	case class.Guarded():
		return p.near && m.allow.addr(addr, class, bits, key{any: true}) != nil
	case class != guard.Private || localName(name) || p.near:
		return true
	}
	k := key{any: true}
	if m.allow.addr(addr, class, bits, k) != nil {
		return true
	}
	k.private = true
	return m.allow.name(name, k) != nil
}
