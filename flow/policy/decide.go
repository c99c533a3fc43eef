package policy

import (
	"net/netip"

	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/hostname"
)

// Labels of decisions that no written rule made.
const (
	builtinGuard    = "builtin:guard"
	builtinPrivate  = "builtin:private"
	builtinPublic   = "builtin:public" // what a list with only denies allows
	builtinDefault  = "builtin:default"
	builtinEvidence = "builtin:evidence" // the two witnesses of a name do not agree, or one is missing
	builtinDNS      = "builtin:encrypted-dns"
)

// Decide judges a flow. It allocates nothing and may be called from any goroutine.
func (p *Policy) Decide(q Question) Decision {
	j := judge{p: p, m: p.active.Load(), q: q}
	d := j.enforce()
	if d.Route == "" {
		d.Route = p.route
	}
	if p.mode == ModeAudit && d.Verdict == Deny && !j.closed {
		d.Verdict, d.AskName = WouldDeny, d.AskName && q.Final
	}
	return d
}

// judge is one judgement under way.
type judge struct {
	p *Policy
	m *matcher
	q Question
	k key

	addr    netip.Addr
	inside  [guard.MaxEmbedded]netip.Addr // IPv4 addresses inside addr
	nInside int

	class   guard.Class // of addr; Own for the host's and weir's addresses
	bits    int         // what a CIDR needs to open addr, 0 for any
	byAddr  *entry      // the most specific allow that opens the address
	guarded bool        // the address, or one inside it, is guarded and nothing lifts the guard
	private bool        // ... is private and no address rule names it

	// closed says that audit mode denies too: guarded, or private and no rule names it.
	closed bool
}

// enforce returns what enforce mode decides.
func (j *judge) enforce() Decision {
	j.read()
	j.weigh()
	if j.guarded {
		j.closed = true
		return Decision{Reason: ReasonGuard, Rule: builtinGuard, Settled: true}
	}
	w := j.witnesses()
	j.closed = j.private && w.best == nil && !j.p.near
	if e := j.denied(); e != nil {
		return Decision{Reason: ReasonRule, Rule: e.label, Settled: true}
	}
	d := j.permitted(w)
	if (d.Reason == ReasonDefault || d.Reason == ReasonPort) && encrypted(j.k, j.addr, j.dnsName()) {
		d.Reason, d.Rule = ReasonEncryptedDNS, builtinDNS
	}
	return d
}

// read turns the question into the key of all lookups.
func (j *judge) read() {
	q := &j.q
	j.k.proto = protoOf(q.Network)
	q.Final = q.Final || j.k.proto == ICMP // there is no claim to wait for
	j.k.port = q.Dst.Port()
	j.addr = q.Dst.Addr().Unmap().WithZone("")
	j.nInside = len(guard.AppendEmbedded(j.inside[:0], j.addr))
	if q.Claim != "" {
		var err error
		if q.Claim, err = hostname.Normalize(q.Claim); err != nil {
			q.Malformed = "bad name"
		}
	}
	if q.Malformed != "" {
		q.Claim = ""
	}
}

// weigh looks at the address: which allow covers it, and is it one that only certain rules open? A rule for exactly the
// address opens what is inside it, too; every other rule has to open each of them.
func (j *judge) weigh() {
	j.class, j.bits = j.p.special(j.addr)
	j.byAddr = j.m.allow.addr(j.addr, j.class, j.bits, j.k)
	if j.byAddr == nil {
		j.guarded, j.private = j.class.Guarded(), j.class == guard.Private
	} else if t := j.byAddr.target; t.Kind == PrefixTarget && t.Prefix.IsSingleIP() {
		return
	}
	for _, a := range j.inside[:j.nInside] {
		class, bits := j.p.special(a)
		if bits == 0 || j.m.allow.addr(a, class, bits, j.k) != nil {
			continue
		}
		j.guarded = j.guarded || class.Guarded()
		j.private = j.private || class == guard.Private
	}
}

// denied looks for one witness of a deny: the address, what is inside it, or any name seen with it.
func (j *judge) denied() *entry {
	t := &j.m.deny
	if len(t.all) == 0 {
		return nil
	}
	if e := t.addr(j.addr, guard.Classify(j.addr), 0, j.k); e != nil {
		return e
	}
	for _, a := range j.inside[:j.nInside] {
		if e := t.addr(a, guard.Classify(a), 0, j.k); e != nil {
			return e
		}
	}
	for _, names := range [...][]string{j.q.Asked, j.q.Chain, j.q.Heard} {
		for _, n := range names {
			if e := t.nameOrOwner(n, j.k); e != nil {
				return e
			}
		}
	}
	if j.q.Claim != "" {
		if e := t.name(j.q.Claim, j.k); e != nil {
			return e
		}
	}
	return j.deniedConnect()
}

// deniedConnect looks for a deny of what a CONNECT request names.
func (j *judge) deniedConnect() *entry {
	if j.q.ConnectPort == 0 {
		return nil
	}
	t, k := &j.m.deny, j.k
	k.port = j.q.ConnectPort
	if !j.q.ConnectIP.IsValid() {
		return t.name(j.q.Claim, k)
	}
	a := j.q.ConnectIP.Unmap().WithZone("")
	if e := t.addr(a, guard.Classify(a), 0, k); e != nil {
		return e
	}
	var buf [guard.MaxEmbedded]netip.Addr
	for _, in := range guard.AppendEmbedded(buf[:0], a) {
		if e := t.addr(in, guard.Classify(in), 0, k); e != nil {
			return e
		}
	}
	return nil
}

// permitted judges what no guard and no deny has ended.
func (j *judge) permitted(w witness) Decision {
	d := j.byNames(w)
	if j.byAddr == nil || j.private {
		if d.Reason == ReasonDefault && j.m.openPublic && j.class == guard.Public {
			return j.byDefault()
		}
		return d
	}
	if j.q.Final && j.q.Malformed != "" && j.m.denials.has(j.k) {
		return j.refuse(ReasonMalformed, builtinEvidence) // the name that cannot be read may be a denied one
	}
	// An address rule covers the flow: names do not matter, except that a more specific one chooses the route.
	specific := w.best != nil && w.best.rank > j.byAddr.rank
	switch {
	case specific && d.Verdict == Allow:
		return d
	case specific && j.q.Final && w.best.route != j.byAddr.route:
		return d // it was dialled on the route of the name, which is not the one of the address
	}
	return j.allow(j.byAddr, j.q.Final || !j.claimMatters(j.byAddr))
}

// allow permits by a rule, unless that would carry DNS past us without the rule saying so.
func (j *judge) allow(e *entry, settled bool) Decision {
	if encrypted(j.k, j.addr, j.dnsName()) && !namesEncrypted(e, j.k.port) {
		return j.refuse(ReasonEncryptedDNS, builtinDNS)
	}
	return Decision{Verdict: Allow, Rule: e.label, Route: e.route, Settled: settled}
}

// byDefault is the default of a list with only denies: @public. Names matter there to the denies.
func (j *judge) byDefault() Decision {
	switch {
	case encrypted(j.k, j.addr, j.dnsName()):
		return j.refuse(ReasonEncryptedDNS, builtinDNS)
	case j.q.Final && j.q.Malformed != "" && j.m.denials.has(j.k):
		return j.refuse(ReasonMalformed, builtinEvidence)
	}
	return Decision{Verdict: Allow, Rule: builtinPublic, Settled: j.q.Final || !j.claimMatters(nil)}
}

// claimMatters reports whether a claim could still end a flow that the address permits.
func (j *judge) claimMatters(e *entry) bool {
	return j.m.denials.has(j.k) || j.k.port == 443 && (e == nil || !namesEncrypted(e, 443))
}

// refuse denies. Before the claim is known that is the last word only when no name could save the flow.
func (j *judge) refuse(reason, rule string) Decision {
	ask := !j.q.Final && j.mayAsk()
	return Decision{Reason: reason, Rule: rule, AskName: ask, Settled: !ask}
}

// mayAsk reports whether an allowed name could permit such a flow.
func (j *judge) mayAsk() bool {
	if j.private && !j.p.near {
		return j.m.claimsPrivate.has(j.k)
	}
	return j.m.claims.has(j.k)
}

// special returns the class of an address, the host's own and weir's own told apart, and how many bits a CIDR must have
// to open it: 0 when any will do.
func (p *Policy) special(a netip.Addr) (class guard.Class, bits int) {
	class = guard.Classify(a)
	if class != guard.Loopback && p.own(a) {
		return guard.Own, a.BitLen()
	}
	if block, ok := guard.Range(a); ok {
		return class, block.Bits()
	}
	return class, 0
}

// own reports whether the address is the host's or weir's. One inside the loopback block is guarded as that.
func (p *Policy) own(a netip.Addr) bool {
	for _, g := range p.gateway {
		if g.Unmap() == a {
			return true
		}
	}
	if p.hostAddrs == nil {
		return false
	}
	for _, h := range p.hostAddrs() {
		if h.Unmap().WithZone("") == a {
			return true
		}
	}
	return false
}
