package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Suggestion is the narrowest policy under which what was seen passes again, and nothing that was not seen: a name with
// exactly the ports and protocol it was used with where evidence knew one, the address where none did, NAME/dns for a
// name that was only asked for. What was denied when it was seen, or what no sound rule can repeat, is listed too, but
// commented out: a person decides.
type Suggestion struct {
	Apps []SuggestedApp `json:"apps"` // in the order of their names
}

// SuggestedApp is the part of one app.
type SuggestedApp struct {
	Name  string          `json:"name"`
	Rules []SuggestedRule `json:"rules"` // names first, in alphabetical order, then addresses
}

// SuggestedRule is one line.
type SuggestedRule struct {
	Text    string `json:"rule"`              // what ParseRule reads
	Comment string `json:"comment"`           // how it was seen; one printable line
	Refused string `json:"refused,omitempty"` // why the line is commented out; "" for one that is in force
}

// seen is what is known about one target and protocol on one route.
type seen struct {
	target  string // as in a rule
	name    bool
	addr    netip.Addr
	proto   Proto
	route   string
	refused string
	ports   []uint16
	count   int
	first   time.Time
	process string
}

// Suggest makes a policy from observations, in any order: the same set gives the same suggestion.
func Suggest(observed []Observation) *Suggestion {
	apps := map[string]map[string]*seen{}
	tried := map[string]bool{}
	for _, o := range observed {
		app := appKey(o.App)
		if apps[app] == nil {
			apps[app] = map[string]*seen{}
		}
		for _, s := range o.needs(tried) {
			merge(apps[app], s)
		}
	}
	out := &Suggestion{}
	for name, all := range apps {
		out.Apps = append(out.Apps, SuggestedApp{Name: name, Rules: suggest(all)})
	}
	slices.SortFunc(out.Apps, func(a, b SuggestedApp) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// appKey makes the name of an app a key that a file may have.
func appKey(name string) string {
	if AppName(name) {
		return name
	}
	key := strings.Map(func(r rune) rune {
		if AppName("a" + string(r)) {
			return r
		}
		return '-'
	}, name)
	if key = "app-" + key; len(key) > 64 {
		key = key[:64]
	}
	return key
}

// needs returns what a flow or question needs to pass again. tried remembers byName.
func (o Observation) needs(tried map[string]bool) []seen {
	base := seen{proto: o.Proto, route: firstOf(o.Route, DefaultRoute), count: max(o.Count, 1), first: o.First, process: o.Process}
	if o.Port != 0 {
		base.ports = []uint16{o.Port}
	}
	if o.Verdict == Deny.String() {
		base.refused = "denied: " + firstOf(printableLine(o.Reason), "no reason")
	} else if o.Reason == ReasonRule {
		base.refused = "a rule denies it: " + firstOf(printableLine(o.Rule), "unknown")
	}
	named := func(n string) seen {
		s := base
		s.target, s.name = n, true
		return s
	}
	var out []seen
	switch {
	case o.Question:
		s := named(o.Names[0])
		s.proto = DNS
		return []seen{s}
	case slices.Contains(o.Names, HostName):
		return []seen{named(HostName)}
	case !o.byName(tried):
		s := base
		s.target, s.addr = o.Addr.String(), o.Addr
		return []seen{s}
	case o.Claim == "": // every name must be allowed
		for _, n := range o.Names {
			out = append(out, named(n))
		}
		return out
	case slices.Contains(o.Names, o.Claim):
		return []seen{named(o.Claim)}
	}
	return []seen{named(o.Claim), named(slices.Min(o.Names))}
}

// byName reports whether rules for names let the flow pass: there is evidence, and the address is not one that only a
// rule for the address opens. The policy itself is asked.
func (o Observation) byName(tried map[string]bool) bool {
	if len(o.Names) == 0 {
		return false
	}
	key := fmt.Sprint(o.Names, o.Claim, o.Addr, o.Port, o.Proto)
	if ok, known := tried[key]; known {
		return ok
	}
	c := Config{Mode: ModeEnforce}
	for _, n := range appendNew(slices.Clone(o.Names), firstOf(o.Claim, o.Names[0])) {
		c.Allow = append(c.Allow, text(n, []uint16{o.Port}, o.Proto))
	}
	if p, err := New(c); err == nil {
		v, _, _ := p.DecideObserved(o)
		tried[key] = v == Allow
	}
	return tried[key]
}

// text writes a rule.
func text(target string, ports []uint16, proto Proto) string {
	if proto == DNS || proto == ICMP {
		return target + "/" + proto.String()
	}
	list := make([]string, len(ports))
	for i, p := range ports {
		list[i] = strconv.Itoa(int(p))
	}
	if strings.Contains(target, ":") {
		target = "[" + target + "]"
	}
	return target + ":" + strings.Join(list, ",") + "/" + proto.String()
}

// merge adds one sighting to what is known.
func merge(all map[string]*seen, s seen) {
	key := fmt.Sprint(s.target, " ", s.proto, " ", s.route, " ", s.refused)
	if s.refused != "" {
		key += fmt.Sprint(" ", s.ports)
	}
	have := all[key]
	if have == nil {
		s.ports = slices.Clone(s.ports)
		all[key] = &s
		return
	}
	have.count += s.count
	for _, p := range s.ports {
		if !slices.Contains(have.ports, p) {
			have.ports = append(have.ports, p)
		}
	}
	if s.first.Before(have.first) || s.first.Equal(have.first) && s.process < have.process {
		have.first, have.process = s.first, s.process
	}
}

// suggest turns the sightings of one app into rules.
func suggest(all map[string]*seen) []SuggestedRule {
	list := make([]*seen, 0, len(all))
	for _, s := range all {
		slices.Sort(s.ports)
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *seen) int {
		return cmp.Or(
			compareBool(b.name, a.name), a.addr.Compare(b.addr), cmp.Compare(a.target, b.target), compareBool(a.refused != "", b.refused != ""),
			cmp.Compare(a.proto, b.proto), cmp.Compare(a.route, b.route), slices.Compare(a.ports, b.ports), cmp.Compare(a.refused, b.refused))
	})
	flows := map[string]bool{} // names whose questions are covered by a rule for flows
	route := routes(list)
	for _, s := range list {
		if s.name && s.proto != DNS && s.refused == "" && s.route == route[s.target] {
			flows[s.target] = true
		}
	}
	var out []SuggestedRule
	for _, s := range list {
		if s.proto == DNS && flows[s.target] {
			continue
		}
		if s.refused == "" && s.route != route[s.target] {
			s.refused = "it went by another route more often"
		}
		for _, ports := range chunks(s.ports) {
			r := SuggestedRule{Text: text(s.target, ports, s.proto), Comment: s.comment(), Refused: s.refused}
			if s.route != "" && s.route != DefaultRoute {
				if msg, _ := checkRoute(s.route); msg == "" {
					r.Text += " via " + s.route
				}
			}
			if _, err := ParseRule(r.Text, AllowRule, Pos{}); err != nil {
				r.Refused = "no rule can say it"
			}
			out = append(out, r)
		}
	}
	return out
}

// routes picks the route of each target: the one it was seen on most often.
func routes(list []*seen) map[string]string {
	counts := map[string]map[string]int{}
	best := map[string]string{}
	for _, s := range list {
		if s.refused != "" {
			continue
		}
		if counts[s.target] == nil {
			counts[s.target] = map[string]int{}
		}
		counts[s.target][s.route] += s.count
	}
	for name, byRoute := range counts {
		for route, n := range byRoute {
			b, ok := best[name]
			if !ok || n > byRoute[b] || n == byRoute[b] && route < b {
				best[name] = route
			}
		}
	}
	return best
}

// chunks cuts a list of ports into lists that one rule can hold. A target without ports is one rule.
func chunks(ports []uint16) [][]uint16 {
	if len(ports) == 0 {
		return [][]uint16{nil}
	}
	return slices.Collect(slices.Chunk(ports, MaxRanges))
}

func (s *seen) comment() string {
	c := fmt.Sprintf("seen %dx", s.count)
	if !s.first.IsZero() {
		c += ", first " + s.first.UTC().Format("15:04:05")
	}
	if s.process != "" {
		c += ", " + printableLine(s.process)
	}
	return c
}

// printableLine makes hostile text safe to stand in a comment: one line, nothing that moves a cursor, not long.
func printableLine(s string) string {
	const most = 80
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			b.WriteString("...")
			break
		}
		if r != ' ' && (!unicode.IsPrint(r) || r == '\uFFFD') {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// YAML returns the policy file, in mode enforce.
func (s *Suggestion) YAML() []byte {
	var b strings.Builder
	b.WriteString("# What was seen, and nothing else. Review it, then: weir run -f FILE --name APP -- CMD ARG...\n")
	b.WriteString("version: 1\nmode: enforce\n")
	if len(s.Apps) == 0 {
		b.WriteString("apps: {}\n")
		return []byte(b.String())
	}
	b.WriteString("apps:\n")
	for _, app := range s.Apps {
		fmt.Fprintf(&b, "  %q:\n", app.Name)
		active := slices.ContainsFunc(app.Rules, func(r SuggestedRule) bool { return r.Refused == "" })
		if active {
			b.WriteString("    allow:\n")
		} else {
			b.WriteString("    allow: []\n")
		}
		for _, r := range app.Rules {
			entry := fmt.Sprintf("- %q", r.Text)
			if r.Refused != "" {
				fmt.Fprintf(&b, "      # %-50s # %s; %s\n", entry, r.Refused, r.Comment)
				continue
			}
			fmt.Fprintf(&b, "      %-52s # %s\n", entry, r.Comment)
		}
	}
	return []byte(b.String())
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
