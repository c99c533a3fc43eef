package policy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// Action is what a rule does to what it covers.
type Action uint8

// The two actions. The order of rules does not matter: a deny always wins over an allow.
const (
	AllowRule Action = iota
	DenyRule
)

// String returns "allow" or "deny".
func (a Action) String() string {
	if a == DenyRule {
		return "deny"
	}
	return "allow"
}

// Proto is a set of protocols.
type Proto uint8

// The protocols a rule can be about. DNS is not a flow's protocol but the question for a name: NAME/dns covers asking
// for the name and no flow to it.
const (
	TCP Proto = 1 << iota
	UDP
	ICMP
	DNS

	// Everything is what a deny without a protocol covers.
	Everything = TCP | UDP | ICMP | DNS
)

// String returns the protocols as they are written in a rule, joined by "+" where there are several.
func (p Proto) String() string {
	var s []string
	for i, name := range [...]string{"tcp", "udp", "icmp", "dns"} {
		if p&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "+")
}

// TargetKind says which field of a [Target] holds.
type TargetKind uint8

// The kinds of targets.
const (
	NameTarget   TargetKind = iota // Name is one name
	SuffixTarget                   // Name is the suffix: *.Name, sub-domains at any depth, not Name itself
	PrefixTarget                   // Prefix is an address (all bits) or a CIDR
	GroupTarget                    // Name is the group with its @
)

// Target is what a rule is about.
type Target struct {
	Kind   TargetKind
	Name   string       // normal form of hostname.Normalize; "@private" and so on for groups
	Prefix netip.Prefix // masked
}

// String returns the target as it is written in a rule.
func (t Target) String() string {
	switch t.Kind {
	case SuffixTarget:
		return "*." + t.Name
	case PrefixTarget:
		if t.Prefix.IsSingleIP() {
			return t.Prefix.Addr().String()
		}
		return t.Prefix.String()
	}
	return t.Name
}

// PortRange is the ports From to To, both included. A single port has both equal.
type PortRange struct{ From, To uint16 }

// Ports is a set of ports. The zero value is "not said", which differs from all.
type Ports struct {
	All    bool
	Ranges []PortRange // as written, each within 1..65535
}

// Said reports whether the rule has any ports.
func (p Ports) Said() bool { return p.All || len(p.Ranges) > 0 }

// Contains reports whether the port is in the set.
func (p Ports) Contains(port uint16) bool {
	if p.All {
		return true
	}
	for _, r := range p.Ranges {
		if r.From <= port && port <= r.To {
			return true
		}
	}
	return false
}

// Single reports whether the port itself is written in the set, rather than covered by a range or by *.
func (p Ports) Single(port uint16) bool {
	for _, r := range p.Ranges {
		if r.From == port && r.To == port {
			return true
		}
	}
	return false
}

// overlaps reports whether the two sets share a port.
func (p Ports) overlaps(q Ports) bool {
	if p.All || q.All {
		return true
	}
	for _, a := range p.Ranges {
		for _, b := range q.Ranges {
			if a.From <= b.To && b.From <= a.To {
				return true
			}
		}
	}
	return false
}

// String returns the set as it is written in a rule, "" if it was not said.
func (p Ports) String() string {
	if p.All {
		return "*"
	}
	s := make([]string, len(p.Ranges))
	for i, r := range p.Ranges {
		s[i] = strconv.Itoa(int(r.From))
		if r.To != r.From {
			s[i] += "-" + strconv.Itoa(int(r.To))
		}
	}
	return strings.Join(s, ",")
}

// Pos is where a rule was written.
type Pos struct {
	File   string // path of the file, FlagFile for the command line, "" for built-in rules
	Line   int    // line, or number of the flag, from 1
	Column int    // column of the rule's first character, from 1
}

// FlagFile is the File of rules that were given as flags.
const FlagFile = "flag"

// Label returns the name of the rule in events: FILE:LINE with the base name of the file, or flag:N.
func (p Pos) Label() string { return fmt.Sprintf("%s:%d", filepath.Base(p.File), p.Line) }

// Rule is one rule as it was written, with defaults not yet filled in.
type Rule struct {
	Action  Action
	Target  Target
	Ports   Ports
	Proto   Proto  // 0 if not said
	Route   string // "direct", "tunnel", "tunnel:NAME"; "" if not said
	Pos     Pos
	Label   string // Pos.Label, or builtin:NAME
	Warning string // something that is allowed but worth a second look; "" if none
}

// String returns the rule in its shortest normal spelling; ParseRule reads it back as the same rule.
func (r Rule) String() string {
	s := r.Target.String()
	if r.Ports.Said() {
		if r.Target.Kind == PrefixTarget && r.Target.Prefix.Addr().Is6() {
			s = "[" + s + "]"
		}
		s += ":" + r.Ports.String()
	}
	if r.Proto != 0 {
		s += "/" + r.Proto.String()
	}
	if r.Route != "" {
		s += " via " + r.Route
	}
	return s
}

// ports returns the ports that the rule covers, with the defaults of its action and target: an allow by name covers 80
// and 443, a deny covers all.
func (r Rule) ports() Ports {
	switch {
	case r.Ports.Said():
		return r.Ports
	case r.Action == DenyRule, r.Proto == ICMP, r.Proto == DNS:
		return Ports{All: true}
	default:
		return Ports{Ranges: []PortRange{{80, 80}, {443, 443}}}
	}
}

// protos returns the protocols that the rule covers. An allow without a protocol covers tcp and udp, a deny everything;
// a deny of some ports is about tcp and udp, because nothing else has ports.
func (r Rule) protos() Proto {
	switch {
	case r.Proto != 0:
		return r.Proto
	case r.Action == AllowRule, len(r.Ports.Ranges) > 0 && !r.Ports.All:
		return TCP | UDP
	default:
		return Everything
	}
}
