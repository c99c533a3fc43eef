package policy

import "net/netip"

// Verdict is the answer to a question.
type Verdict uint8

// The verdicts. The zero value denies.
const (
	Deny Verdict = iota
	Allow
	// WouldDeny lets pass what enforce mode would deny; Reason and Rule are those of the denial.
	WouldDeny
)

// String returns the verdict as events have it: "deny", "allow" or "would-deny".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case WouldDeny:
		return "would-deny"
	}
	return "deny"
}

// The reasons of a denial, as events have them.
const (
	ReasonGuard         = "guard"
	ReasonPrivate       = "private"
	ReasonRule          = "rule"
	ReasonDefault       = "default"
	ReasonPort          = "port" // a rule covers the target, but not on this port or protocol
	ReasonNameMismatch  = "name-mismatch"
	ReasonNoEvidence    = "no-evidence"
	ReasonAmbiguousName = "ambiguous-name"
	ReasonMalformed     = "malformed"
	ReasonDNSBlocked    = "dns-blocked"
	ReasonRebinding     = "rebinding"
	ReasonEncryptedDNS  = "encrypted-dns"
)

// Question is everything that is known about a flow when it is judged. Names are in normal form.
type Question struct {
	Network string         // "tcp", "udp", "icmp"
	Dst     netip.AddrPort // real destination (host loopback already mapped to 127.0.0.1 or ::1); port 0 for "icmp"

	// Route is the route that Asked came by. When it is set, only name rules of that route count; a gate with several
	// routes asks once for each of Policy.Routes. "" means that there is only one.
	Route string

	Asked []string // live evidence: names this sandbox asked its own resolver for, bound to Dst.Addr() on Route
	Chain []string // CNAME chain members of those: count for denies only
	Heard []string // names from other servers' answers: count for denies only

	Claim       string // claimed name, "" if none
	ClaimSource string // as in events; not judged
	Malformed   string // why the claim is unusable, "" if it is not
	ECH         bool   // not judged: Chrome sends a dummy always; the outer name is a claim like any other

	// Connect is the authority of an HTTP CONNECT request: Claim is then the name in it (or ConnectIP the address) and
	// ConnectPort its port, since that is where the flow really goes. 0 for every other claim.
	ConnectPort uint16
	ConnectIP   netip.Addr

	// Final is false before any client byte was read (may the address be dialled?) and true once the claim is known or
	// known to be missing.
	Final bool
}

// Decision is the answer to a [Question].
type Decision struct {
	Verdict Verdict
	Reason  string // one of the Reason constants, "" for an allow
	Rule    string // FILE:LINE, flag:N or builtin:NAME; "" if no rule decided
	Route   string // "direct", "tunnel", "tunnel:NAME"
	Settled bool   // address stage: no claim can change the verdict

	// AskName goes with a denial. In the address stage: nothing permits the address yet, but a claim of an allowed name,
	// confirmed by our own DNS, may; accept without dialling, read the claim, ask Decide again with Final set. In the
	// final stage (reason no-evidence): ask our own DNS for the claim once, on Route, and Decide again with Asked filled if
	// the address was among the answers.
	AskName bool
}

// NameDecision is the answer to a DNS question.
type NameDecision struct {
	Verdict Verdict
	Rule    string // as in Decision
	Reason  string // dns-blocked, rule, encrypted-dns or malformed; "" for an allow
	Route   string // the route by which to ask

	// Expansion says that a denied name is an allowed one with a search domain (or the rest of one) behind it: a resolver
	// library tried it on its own, and nobody need hear of it.
	Expansion bool
}
