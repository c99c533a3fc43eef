package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weir-dev/weir/internal/guard"
)

// entry is one compiled rule: one target, all defaults filled in.
type entry struct {
	label    string
	target   Target
	ports    Ports
	protos   Proto
	route    string
	rank     int  // of the target: the more specific, the larger
	explicit bool // the rule wrote its ports
	text     string
}

// covers reports whether the entry is about flows like this one, its target apart.
func (e *entry) covers(k key) bool {
	return e.protos&k.proto != 0 && (k.proto == ICMP || k.proto == DNS || e.ports.Contains(k.port))
}

// flows reports whether the entry is about any flows at all.
func (e *entry) flows() bool { return e.protos&^DNS != 0 }

// key is what a lookup asks beside the target.
type key struct {
	proto Proto
	port  uint16
	route string // only entries of this route, "" = any
	any   bool   // every protocol and port of a flow will do

	anyName bool // every entry will do: is the name covered at all?

	// private asks for entries that may lead a name to a private address: one with exactly that name and explicit
	// ports, or any for a name that is not public.
	private bool
}

func (k key) accepts(e *entry) bool {
	switch {
	case k.anyName:
		return true
	case k.route != "" && k.route != e.route:
		return false
	case k.any:
		return e.flows()
	}
	return e.covers(k)
}

// rank orders targets: an address, a name, a wildcard by the length of its suffix, a CIDR by its bits, a group.
func rank(t Target) int {
	const kind = 1 << 10
	switch t.Kind {
	case PrefixTarget:
		if t.Prefix.IsSingleIP() {
			return 5 * kind
		}
		return 2*kind + t.Prefix.Bits()
	case NameTarget:
		return 4 * kind
	case SuffixTarget:
		return 3*kind + len(t.Name)
	}
	return slices.Index([]string{"@any", "@public", "@private", "@metadata"}, t.Name)
}

// table is the indexed form of all rules of one action.
type table struct {
	exact    map[string][]*entry
	suffix   map[string][]*entry
	prefix   map[netip.Prefix][]*entry
	bits     [2][]int // lengths of the prefixes that occur, longest first; IPv4, IPv6
	groups   []*entry // built-in groups, by falling rank
	all      []*entry
	hasNames bool
}

func newTable() table {
	return table{exact: map[string][]*entry{}, suffix: map[string][]*entry{}, prefix: map[netip.Prefix][]*entry{}}
}

// add indexes an entry.
func (t *table) add(e *entry) {
	t.all = append(t.all, e)
	switch e.target.Kind {
	case NameTarget:
		t.exact[e.target.Name] = append(t.exact[e.target.Name], e)
		t.hasNames = true
	case SuffixTarget:
		t.suffix[e.target.Name] = append(t.suffix[e.target.Name], e)
		t.hasNames = true
	case PrefixTarget:
		p := e.target.Prefix
		t.prefix[p] = append(t.prefix[p], e)
		family := &t.bits[0]
		if p.Addr().Is6() {
			family = &t.bits[1]
		}
		if !slices.Contains(*family, p.Bits()) {
			*family = append(*family, p.Bits())
			slices.SortFunc(*family, func(a, b int) int { return b - a })
		}
	case GroupTarget:
		t.groups = append(t.groups, e)
		slices.SortStableFunc(t.groups, func(a, b *entry) int { return b.rank - a.rank })
	}
}

func first(list []*entry, k key) *entry {
	for _, e := range list {
		if k.accepts(e) {
			return e
		}
	}
	return nil
}

// name returns the most specific entry for a name: the name itself, then its suffixes label by label.
func (t *table) name(n string, k key) *entry {
	if !t.hasNames {
		return nil
	}
	local := !k.private || localName(n)
	for _, e := range t.exact[n] {
		if k.accepts(e) && (local || e.explicit) {
			return e
		}
	}
	if len(t.suffix) == 0 || !local {
		return nil
	}
	for i := 0; i < len(n); i++ {
		if n[i] == '.' {
			if e := first(t.suffix[n[i+1:]], k); e != nil {
				return e
			}
		}
	}
	return nil
}

// addr returns the most specific entry for an address among CIDRs of at least minBits and, where minBits is 0, groups.
// @private is asked for by class whatever minBits is.
func (t *table) addr(a netip.Addr, class guard.Class, minBits int, k key) *entry {
	if e := t.cidr(a, minBits, k); e != nil {
		return e
	}
	for _, e := range t.groups {
		if k.accepts(e) && holds(e.target.Name, class) && (minBits == 0 || class == guard.Private && e.target.Name == "@private") {
			return e
		}
	}
	return nil
}

func (t *table) cidr(a netip.Addr, minBits int, k key) *entry {
	lengths := t.bits[0]
	if a.Is6() {
		lengths = t.bits[1]
	}
	for _, bits := range lengths {
		if bits < minBits {
			break
		}
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if e := first(t.prefix[p], k); e != nil {
			return e
		}
	}
	return nil
}

// holds reports whether a built-in group holds addresses of the class.
func holds(group string, class guard.Class) bool {
	switch group {
	case "@any":
		return true
	case "@public":
		return class == guard.Public
	case "@private":
		return class == guard.Private
	case "@metadata":
		return class == guard.Metadata
	}
	return false
}

// portSet is a set of ports for one protocol.
type portSet [1 << 10]uint64

func (s *portSet) has(p uint16) bool { return s[p>>6]&(1<<(p&63)) != 0 }

func (s *portSet) add(ports Ports) {
	if ports.All {
		ports.Ranges = []PortRange{{0, 65535}}
	}
	for _, r := range ports.Ranges {
		for w := r.From >> 6; w <= r.To>>6; w++ {
			word := ^uint64(0)
			if w == r.From>>6 {
				word &= ^uint64(0) << (r.From & 63)
			}
			if w == r.To>>6 {
				word &= ^uint64(0) >> (63 - r.To&63)
			}
			s[w] |= word
		}
	}
}

// reach is the flows that names can decide: by protocol and port.
type reach struct{ tcp, udp portSet }

func (r *reach) add(e *entry) {
	if e.protos&TCP != 0 {
		r.tcp.add(e.ports)
	}
	if e.protos&UDP != 0 {
		r.udp.add(e.ports)
	}
}

func (r *reach) has(k key) bool {
	return k.proto == TCP && r.tcp.has(k.port) || k.proto == UDP && r.udp.has(k.port)
}

// matcher is a compiled list of rules. It is never changed after compile.
type matcher struct {
	allow, deny table
	openPublic  bool // a list with only denies allows @public otherwise

	// claims is where a claim may save a flow to a public address, claimsPrivate the same for private ones, denials
	// where a claim may end one.
	claims, claimsPrivate, denials reach
}

// compile expands groups and defaults and indexes the rules. Two allows of different routes for the same target are an
// error: of names always, since the name must be asked by one route; of addresses when they share a port and protocol.
func compile(rules []Rule, f *File, route string) (*matcher, error) {
	m := &matcher{allow: newTable(), deny: newTable()}
	for _, r := range rules {
		targets, err := expand(r, f)
		if err != nil {
			return nil, err
		}
		for _, t := range targets {
			e := &entry{label: r.Label, target: t, ports: r.ports(), protos: r.protos(), route: r.Route, rank: rank(t), explicit: r.Ports.Said(), text: r.String()}
			if e.route == "" {
				e.route = route
			}
			if r.Action == DenyRule {
				m.deny.add(e)
				m.denials.addName(e)
				continue
			}
			if other := m.allow.tied(e); other != nil {
				return nil, &Error{File: r.Pos.File, Line: r.Pos.Line, Column: r.Pos.Column,
					Msg:    fmt.Sprintf("%s goes %s here and %s in %s (%s)", t, e.route, other.route, other.text, other.label),
					Fix:    "give both the same route, or make one target more specific",
					Source: source(r, f)}
			}
			m.allow.add(e)
			m.claims.addName(e)
			if t.Kind == NameTarget && (e.explicit || localName(t.Name)) || t.Kind == SuffixTarget && localName("x."+t.Name) {
				m.claimsPrivate.addName(e)
			}
		}
	}
	return m, nil
}

// source returns the text that a rule's position points into.
func source(r Rule, f *File) string {
	if f != nil && r.Pos.File == f.Name {
		return f.line(r.Pos.Line)
	}
	return r.String()
}

// addName adds the flows of an entry for a name.
func (r *reach) addName(e *entry) {
	if e.target.Kind == NameTarget || e.target.Kind == SuffixTarget {
		r.add(e)
	}
}

// expand returns the targets that a rule's target stands for.
func expand(r Rule, f *File) ([]Target, error) {
	switch {
	case r.Target.Kind == NameTarget && r.Target.Name == HostName:
		v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
		return []Target{
			{Kind: PrefixTarget, Prefix: netip.PrefixFrom(v4, 32)},
			{Kind: PrefixTarget, Prefix: netip.PrefixFrom(v6, 128)},
		}, nil
	case r.Target.Kind != GroupTarget || builtinGroup(r.Target.Name):
		return []Target{r.Target}, nil
	}
	if msg, fix := unknownGroup(f, r.Target.Name); msg != "" {
		return nil, &Error{File: r.Pos.File, Line: r.Pos.Line, Column: r.Pos.Column, Msg: msg, Fix: fix, Source: source(r, f)}
	}
	var targets []Target
	for _, t := range f.Groups[r.Target.Name] {
		if r.Proto == DNS && t.Kind == PrefixTarget {
			continue
		}
		more, err := expand(Rule{Target: t}, nil)
		if err != nil {
			return nil, err
		}
		targets = append(targets, more...)
	}
	return targets, nil
}

// tied returns an entry of the same target that would send the same flow another way.
func (t *table) tied(e *entry) *entry {
	var same []*entry
	switch e.target.Kind {
	case NameTarget:
		same = t.exact[e.target.Name]
	case SuffixTarget:
		same = t.suffix[e.target.Name]
	case PrefixTarget:
		same = t.prefix[e.target.Prefix]
	case GroupTarget:
		same = t.groups
	}
	for _, o := range same {
		byName := e.target.Kind == NameTarget || e.target.Kind == SuffixTarget
		if o.target == e.target && o.route != e.route && (byName || o.protos&e.protos != 0 && o.ports.overlaps(e.ports)) {
			return o
		}
	}
	return nil
}

// lines returns the compiled rules as text, sorted, for the digest.
func (m *matcher) lines() []string {
	var out []string
	for action, t := range map[Action]*table{AllowRule: &m.allow, DenyRule: &m.deny} {
		for _, e := range t.all {
			out = append(out, fmt.Sprintf("%s %s:%s/%s via %s explicit=%t", action, e.target, e.ports, e.protos, e.route, e.explicit))
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return append(out, "public="+strings.ToLower(fmt.Sprint(m.openPublic)))
}
