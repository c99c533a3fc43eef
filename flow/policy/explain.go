package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/hostname"
)

// Explanation says what a policy does with one destination, and why.
type Explanation struct {
	Dest    string `json:"dest"`
	Mode    string `json:"mode"`
	Verdict string `json:"verdict"` // of the flow
	Reason  string `json:"reason"`
	Rule    string `json:"rule"`
	Route   string `json:"route"`

	// DNS is what becomes of the question for a name, nil for an address.
	DNS *ExplainedQuestion `json:"dns,omitempty"`

	// Words is the explanation for people, one sentence per element.
	Words []string `json:"words"`

	// Hint is a rule that would allow it; "" when it is allowed, or when an allow cannot help.
	Hint string `json:"hint,omitempty"`
}

// ExplainedQuestion is the part of an [Explanation] about DNS.
type ExplainedQuestion struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule"`
}

// ErrDest is a destination that is none.
type ErrDest struct{ Msg, Fix string }

// Error returns what is wrong and what to write instead.
func (e *ErrDest) Error() string { return e.Msg + " (" + e.Fix + ")" }

// Explain judges a destination: NAME, NAME:PORT or ADDRESS:PORT, each with /tcp, /udp or /icmp behind it (default
// /tcp). A name without a port is explained for 443. A name is taken to be asked for first, to have a public address
// that no address rule is about, and to be claimed too.
func (p *Policy) Explain(dest string) (*Explanation, error) {
	q, name, err := parseDest(dest)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Dest: dest, Mode: p.mode}
	if name != "" && name != HostName {
		q.Asked, q.Claim = []string{name}, name
		q.Dst = netip.AddrPortFrom(p.unremarkable(), q.Dst.Port())
		if q.Network == "icmp" {
			q.Claim = ""
		}
	}
	d := p.Decide(q)
	x.Verdict, x.Reason, x.Rule, x.Route = d.Verdict.String(), d.Reason, d.Rule, d.Route
	x.Hint = p.Hint(q, d)
	if name != "" {
		n := p.DecideName(name, 0)
		x.DNS = &ExplainedQuestion{Verdict: n.Verdict.String(), Reason: n.Reason, Rule: n.Rule}
		x.Words = append(x.Words, questionWords(name, n))
	}
	x.Words = append(x.Words, p.flowWords(q, name, d)...)
	return x, nil
}

// parseDest reads a destination.
func parseDest(dest string) (q Question, name string, err error) {
	q = Question{Network: "tcp", Final: true}
	rest := dest
	if _, after, isURL := strings.Cut(dest, "://"); isURL {
		host, _, _ := strings.Cut(after, "/")
		return q, "", &ErrDest{"a destination is a host, not a URL", "write " + host}
	}
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		q.Network, rest = rest[i+1:], rest[:i]
		if q.Network != "tcp" && q.Network != "udp" && q.Network != "icmp" {
			return q, "", &ErrDest{fmt.Sprintf("unknown protocol %q", q.Network), "write /tcp, /udp or /icmp, or nothing for tcp"}
		}
	}
	host, port := rest, ""
	bare, bareErr := netip.ParseAddr(strings.Trim(rest, "[]"))
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && bareErr != nil {
		host, port = rest[:i], rest[i+1:]
	}
	number := uint64(443)
	if port != "" {
		if number, err = strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return q, "", &ErrDest{fmt.Sprintf("%q is no port", port), "write 1 to 65535"}
		}
	}
	if q.Network == "icmp" {
		number = 0
	}
	addr, addrErr := netip.ParseAddr(strings.Trim(host, "[]"))
	if addrErr == nil {
		if port == "" && q.Network != "icmp" {
			return q, "", &ErrDest{fmt.Sprintf("%s has no port", bare), "write " + netip.AddrPortFrom(addr, 443).String()}
		}
		q.Dst = netip.AddrPortFrom(addr, uint16(number))
		return q, "", nil
	}
	if name, err = hostname.FromUser(host); err != nil {
		return q, "", &ErrDest{"not a destination: " + err.Error(), "write NAME, NAME:PORT or ADDRESS:PORT"}
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return q, "", &ErrDest{name + " is the sandbox itself inside the sandbox", "write " + HostName + " for the host's loopback"}
	}
	q.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(number)) // of HostName; others get one later
	return q, name, nil
}

// unremarkable returns a public address that no CIDR is about, or the last one tried.
func (p *Policy) unremarkable() netip.Addr {
	m := p.active.Load()
	var a netip.Addr
	for _, s := range [...]string{"203.0.113.1", "198.51.100.1", "192.0.2.1", "93.184.215.14", "2001:db8::1"} {
		a = netip.MustParseAddr(s)
		k := key{any: true}
		if !p.own(a) && m.allow.cidr(a, 0, k) == nil && m.deny.cidr(a, 0, k) == nil {
			break
		}
	}
	return a
}

func questionWords(name string, n NameDecision) string {
	switch {
	case n.Rule == "builtin:host":
		return fmt.Sprintf("%s is weir's name for the host's loopback; the question is answered here.", name)
	case n.Verdict == Allow && n.Rule == builtinPublic:
		return fmt.Sprintf("The question for %s is asked (%s): there are only denies, and none is about it.", name, n.Route)
	case n.Verdict == Allow:
		return fmt.Sprintf("The question for %s is asked (%s): %s covers the name.", name, n.Route, n.Rule)
	}
	s := fmt.Sprintf("The question for %s gets NXDOMAIN and never leaves the host", name)
	if n.Verdict == WouldDeny {
		s = fmt.Sprintf("The question for %s is asked because the mode is audit; in enforce mode it would get NXDOMAIN", name)
	}
	switch n.Reason {
	case ReasonRule:
		return s + fmt.Sprintf(": %s denies the name.", n.Rule)
	case ReasonEncryptedDNS:
		return s + ": it is a known DoH resolver, and no rule names exactly it."
	}
	return s + ": no allow covers the name."
}

func (p *Policy) flowWords(q Question, name string, d Decision) []string {
	what := q.Dst.String()
	if name != "" {
		what = name + ":" + strconv.Itoa(int(q.Dst.Port()))
	}
	if q.Network == "icmp" {
		what = firstOf(name, q.Dst.Addr().String())
	}
	what += "/" + q.Network
	if d.Verdict == Allow {
		by := d.Rule + " allows it"
		switch d.Rule {
		case builtinPublic:
			by = "there are only denies, and none is about it"
		case "builtin:host-port":
			by = "--host-port opens exactly this port"
		}
		words := []string{fmt.Sprintf("A flow to %s is allowed, route %s: %s.", what, d.Route, by)}
		if name != "" && name != HostName {
			words = append(words, "This holds for addresses that weir's own DNS answered to this sandbox for the name. A private address needs an address rule, or a rule with exactly this name and explicit ports.")
		}
		return words
	}
	verb := "is denied"
	if d.Verdict == WouldDeny {
		verb = "passes because the mode is audit; in enforce mode it would be denied"
	}
	return []string{fmt.Sprintf("A flow to %s %s (%s): %s.", what, verb, d.Reason, p.why(q, d))}
}

// why explains a denial.
func (p *Policy) why(q Question, d Decision) string {
	switch d.Reason {
	case ReasonGuard:
		class, _ := p.special(q.Dst.Addr().Unmap())
		return fmt.Sprintf("the address, or one inside it, is guarded (%s); only an allow of exactly that address, or of a CIDR wholly inside the guarded range, lifts that", guardedClass(class, q.Dst.Addr()))
	case ReasonPrivate:
		return "the address is private and no allow names it"
	case ReasonRule:
		return d.Rule + " denies it, and a deny always wins"
	case ReasonPort:
		return "a rule covers the target, but not on this port and protocol"
	case ReasonEncryptedDNS:
		return "it would carry DNS questions past weir; a rule must name exactly the resolver, or port 853"
	case ReasonNameMismatch:
		return "the name in its first bytes is not allowed"
	case ReasonNoEvidence:
		return "no answer of weir's own DNS binds the claimed name to the address"
	case ReasonAmbiguousName:
		return "the address belongs to several names, not all allowed, and the flow claims none"
	case ReasonMalformed:
		return "the name in its first bytes cannot be read in one way only"
	}
	return "no allow covers it"
}

func guardedClass(class guard.Class, a netip.Addr) guard.Class {
	if class.Guarded() {
		return class
	}
	for _, in := range guard.Embedded(a.Unmap()) {
		if c := guard.Classify(in); c.Guarded() {
			return c
		}
	}
	return guard.Own
}

// Hint returns the narrowest rule that would allow a flow that was denied, in the words of --allow; "" when it was not
// denied, when a deny rule or a malformed claim ended it, or when no rule is known to help.
func (p *Policy) Hint(q Question, d Decision) string {
	if d.Verdict == Allow {
		return ""
	}
	proto, port := q.Network, q.Dst.Port()
	name := q.Claim
	if name == "" && len(q.Asked) > 0 {
		name = q.Asked[0]
	}
	switch d.Reason {
	case ReasonRule, ReasonMalformed:
		return ""
	case ReasonGuard:
		name = ""
	case ReasonAmbiguousName:
		for _, n := range q.Asked {
			if p.active.Load().allow.name(hostname.Owner(n), key{proto: protoOf(proto), port: port}) == nil {
				name = n
			}
		}
	case ReasonEncryptedDNS:
		if port == 443 && !dohName(name) {
			name = ""
		}
	}
	if name == "" || d.Reason == ReasonNoEvidence {
		return hintAddr(q)
	}
	switch {
	case proto == "icmp":
		return name + "/icmp"
	case d.Reason != ReasonPrivate && (port == 80 || port == 443):
		return name
	}
	return name + ":" + strconv.Itoa(int(port))
}

func hintAddr(q Question) string {
	addr := q.Dst.Addr().Unmap().WithZone("")
	if q.Network == "icmp" {
		return addr.String() + "/icmp"
	}
	return netip.AddrPortFrom(addr, q.Dst.Port()).String()
}

func protoOf(network string) Proto {
	switch network {
	case "tcp":
		return TCP
	case "udp":
		return UDP
	case "icmp":
		return ICMP
	}
	return 0
}
