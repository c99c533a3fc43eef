package policy

import "github.com/weir-dev/weir/internal/hostname"

// DecideChain judges a name that stands in an answer behind the one that was asked: a member of its CNAME chain. Such a
// name never permits anything, and needs no permission of its own; a deny that covers it ends the answer.
func (p *Policy) DecideChain(name string) NameDecision {
	d := NameDecision{Verdict: Allow, Route: p.route}
	n, err := hostname.Labels(name)
	if err != nil {
		return d
	}
	if e := p.active.Load().deny.nameOrOwner(n, question); e != nil {
		d.Verdict, d.Reason, d.Rule = Deny, ReasonRule, e.label
		if p.mode == ModeAudit {
			d.Verdict = WouldDeny
		}
	}
	return d
}
