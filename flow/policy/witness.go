package policy

import (
	"github.com/weir-dev/weir/internal/guard"

	"github.com/weir-dev/weir/internal/hostname"
)

// witness is what evidence and claim say together.
type witness struct {
	best  *entry // the most specific allow among the names that evidence binds to the address
	all   bool   // every name that evidence binds is allowed
	claim *entry // the allow of the claim
	bound bool   // evidence binds the claim itself
}

// witnesses looks up the names of evidence and the claim.
func (j *judge) witnesses() witness {
	k := j.k
	k.route, k.private = j.q.Route, j.private && !j.p.near
	w := witness{all: true}
	for _, n := range j.q.Asked {
		e := j.m.allow.name(hostname.Owner(n), k)
		w.all = w.all && e != nil
		if e != nil && (w.best == nil || e.rank > w.best.rank) {
			w.best = e
		}
		w.bound = w.bound || e != nil && hostname.Owner(n) == j.q.Claim
	}
	if j.q.Claim != "" {
		if j.q.ConnectPort != 0 {
			k.port = j.q.ConnectPort
		}
		w.claim = j.m.allow.name(j.q.Claim, k)
	}
	return w
}

// byNames judges by evidence and claim alone.
func (j *judge) byNames(w witness) Decision {
	switch {
	case w.best == nil:
		return j.withoutEvidence(w)
	case !j.q.Final:
		return j.allow(w.best, false)
	case j.q.Malformed != "":
		return j.refuse(ReasonMalformed, builtinEvidence)
	case j.q.Claim != "" && (w.claim == nil || w.claim.route != w.best.route):
		return j.refuse(ReasonNameMismatch, builtinEvidence)
	case j.q.Claim != "" && w.bound:
		return j.allow(w.claim, true)
	case j.q.Claim != "":
		return j.allow(w.best, true)
	case j.q.ConnectIP.IsValid() && !j.connectAllowed():
		return j.refuse(ReasonNameMismatch, builtinEvidence)
	case !w.all && !j.q.ConnectIP.IsValid():
		return j.refuse(ReasonAmbiguousName, builtinEvidence)
	}
	return j.allow(w.best, true)
}

// withoutEvidence judges a flow to whose address no allowed name is bound.
func (j *judge) withoutEvidence(w witness) Decision {
	switch {
	case j.q.Final && j.q.Malformed != "" && j.mayAsk():
		return j.refuse(ReasonMalformed, builtinEvidence)
	case j.q.Final && w.claim != nil:
		return Decision{Reason: ReasonNoEvidence, Rule: builtinEvidence, Route: w.claim.route, AskName: true}
	case j.otherPort():
		return j.refuse(ReasonPort, builtinDefault)
	case j.private:
		return j.refuse(ReasonPrivate, builtinPrivate)
	}
	return j.refuse(ReasonDefault, builtinDefault)
}

// otherPort reports whether a rule would open the target on another port or protocol.
func (j *judge) otherPort() bool {
	k := j.k
	k.any = true
	if j.byAddr == nil && j.m.allow.addr(j.addr, j.class, j.bits, k) != nil {
		return true
	}
	k.route, k.private = j.q.Route, j.private && !j.p.near
	for _, n := range j.q.Asked {
		if j.m.allow.name(hostname.Owner(n), k) != nil {
			return true
		}
	}
	return j.q.Claim != "" && j.m.allow.name(j.q.Claim, k) != nil
}

// dnsName is the name by which a flow may be known to carry DNS: its claim, else what the program asked for.
func (j *judge) dnsName() string {
	if j.q.Claim != "" || !j.q.Final {
		return j.q.Claim
	}
	for _, n := range j.q.Asked {
		if dohName(n) {
			return n
		}
	}
	return ""
}

// connectAllowed reports whether an address rule allows the address that a CONNECT request names.
func (j *judge) connectAllowed() bool {
	k := j.k
	k.port = j.q.ConnectPort
	a := j.q.ConnectIP.Unmap().WithZone("")
	class, bits := j.p.special(a)
	e := j.m.allow.addr(a, class, bits, k)
	for _, in := range guard.Embedded(a) {
		class, bits := j.p.special(in)
		if bits != 0 && j.m.allow.addr(in, class, bits, k) == nil {
			return false
		}
	}
	return e != nil
}
