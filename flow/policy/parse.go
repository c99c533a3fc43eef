package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weir-dev/weir/internal/hostname"
)

// Bounds of one rule.
const (
	MaxRuleLen = 1024 // octets of text
	MaxRanges  = 128  // ports and port ranges
)

// HostName is the name of the host's loopback inside the sandbox. In a rule it stands for 127.0.0.1 and ::1.
const HostName = "host.weir.internal"

// ParseRule parses one rule: TARGET[:PORTS][/PROTO] [via ROUTE]. pos is where its first character stands; errors are
// of type *Error and point at the character that is wrong. Whether a group exists is for the caller to check.
func ParseRule(text string, action Action, pos Pos) (Rule, error) {
	p := &ruleParser{text: text, action: action, pos: pos}
	r, err := p.rule()
	if err != nil {
		return Rule{}, err
	}
	return r, nil
}

// ruleParser reads from left to right; off is how far it has come.
type ruleParser struct {
	text   string
	off    int
	action Action
	pos    Pos
}

// fail returns an error that points at octet off of the text.
func (p *ruleParser) fail(off int, msg, fix string) *Error {
	col := p.pos.Column
	if col == 0 {
		col = 1
	}
	return &Error{
		File: p.pos.File, Line: p.pos.Line, Column: col + utf8.RuneCountInString(p.text[:off]),
		Msg: msg, Fix: fix, Source: p.text,
	}
}

func (p *ruleParser) rule() (Rule, *Error) {
	r := Rule{Action: p.action, Pos: p.pos, Label: p.pos.Label()}
	if len(p.text) > MaxRuleLen {
		return r, p.fail(0, fmt.Sprintf("the rule is %d octets long, at most %d are allowed", len(p.text), MaxRuleLen), "write several rules")
	}
	p.space()
	start := p.off
	if p.rest() == "" {
		return r, p.fail(start, "the rule is empty", "write a target, for example api.example.com or 192.0.2.1:443")
	}
	if err := p.target(&r); err != nil {
		return r, err
	}
	if err := p.ports(&r); err != nil {
		return r, err
	}
	if err := p.proto(&r); err != nil {
		return r, err
	}
	if err := p.via(&r); err != nil {
		return r, err
	}
	if err := p.complete(&r, start); err != nil {
		return r, err
	}
	r.Warning = warn(r)
	return r, nil
}

func (p *ruleParser) rest() string { return p.text[p.off:] }

func (p *ruleParser) space() {
	for p.off < len(p.text) && (p.text[p.off] == ' ' || p.text[p.off] == '\t') {
		p.off++
	}
}

// word returns the text up to the next octet of stop, or up to a blank, and moves behind it.
func (p *ruleParser) word(stop string) string {
	rest := p.rest()
	if i := strings.IndexAny(rest, stop+" \t"); i >= 0 {
		rest = rest[:i]
	}
	p.off += len(rest)
	return rest
}

// target reads the target by its first characters: what it cannot be is told apart from what is misspelled.
func (p *ruleParser) target(r *Rule) *Error {
	start, rest := p.off, p.rest()
	switch {
	case strings.Contains(rest, "://"):
		return p.fail(start, "a rule is a host, not a URL", "write "+urlHost(rest))
	case rest[0] == '!':
		return p.fail(start, "a rule has no !", "put "+rest[1:]+" under deny, or in --deny")
	case rest[0] == '[':
		return p.bracketed(r)
	case rest[0] == '@':
		name := p.word(":/")
		if !groupName(name) {
			return p.fail(start, fmt.Sprintf("%q is no group name", name), "write @ and then lower case letters, digits and hyphens")
		}
		r.Target = Target{Kind: GroupTarget, Name: name}
		return nil
	case rest[0] == '*':
		return p.wildcard(r)
	}
	if end := strings.IndexAny(rest, " \t"); strings.Count(rest, ":") >= 2 && (end < 0 || strings.Count(rest[:end], ":") >= 2) {
		return p.bareIPv6(r)
	}
	name := p.word(":/")
	if i := strings.IndexByte(name, '@'); i >= 0 {
		return p.fail(start+i, "a rule has no user name", "write "+name[i+1:])
	}
	if numeric(name) {
		return p.address(r, start, name)
	}
	return p.name(r, start, name)
}

// name sets a target that is one name.
func (p *ruleParser) name(r *Rule, start int, name string) *Error {
	n, err := hostname.FromUser(name)
	if err != nil {
		return p.badName(start, name, err)
	}
	if n == "localhost" || hostname.Under(n, "localhost") {
		return p.fail(start, n+" is the sandbox itself inside the sandbox", "write "+HostName+" for the host's loopback")
	}
	r.Target = Target{Kind: NameTarget, Name: n}
	return nil
}

func (p *ruleParser) wildcard(r *Rule) *Error {
	start := p.off
	word := p.word(":/")
	if word == "*" {
		return p.fail(start, "* is not a target", "write @public for every public address, or @any")
	}
	suffix, ok := strings.CutPrefix(word, "*.")
	if !ok {
		return p.fail(start, "a wildcard is *. and a name", "write *."+strings.TrimLeft(word, "*."))
	}
	if i := strings.IndexByte(suffix, '*'); i >= 0 {
		return p.fail(start+2+i, "a rule has one wildcard, at its beginning", "write *"+suffix[strings.LastIndexByte(suffix, '*')+1:])
	}
	n, err := hostname.FromUser(suffix)
	if err != nil {
		return p.badName(start+2, suffix, err)
	}
	if publicSuffix(n) {
		return p.fail(start, fmt.Sprintf("*.%s is a public suffix: anybody can register a name under it", n), "name the domains, for example *.example."+n)
	}
	if n == "localhost" {
		return p.fail(start, "*.localhost is the sandbox itself inside the sandbox", "write "+HostName+" for the host's loopback")
	}
	r.Target = Target{Kind: SuffixTarget, Name: n}
	return nil
}

func (p *ruleParser) badName(start int, name string, err error) *Error {
	fix := "write a host name, an address, a CIDR or an @group"
	if errors.Is(err, hostname.ErrIPLiteral) {
		fix = "write the address without *."
	}
	if strings.Contains(name, "*") {
		fix = "a wildcard is a whole label at the beginning, as in *.example.com"
	}
	return p.fail(start, "not a name: "+err.Error(), fix)
}

// bracketed reads [IPv6] or [IPv6/BITS].
func (p *ruleParser) bracketed(r *Rule) *Error {
	start := p.off
	end := strings.IndexByte(p.rest(), ']')
	if end < 0 {
		return p.fail(start, "the bracket is not closed", "write [ADDRESS]:PORTS")
	}
	inside := p.rest()[1:end]
	p.off += end + 1
	prefix, msg, fix := parsePrefix(inside)
	switch {
	case msg != "":
		return p.fail(start+1, msg, fix)
	case !prefix.Addr().Is6():
		return p.fail(start, "brackets are for IPv6 addresses", "write "+inside)
	}
	if bits, ok := leadingBits(p.rest()); ok {
		return p.fail(p.off, "the prefix length stands inside the brackets", "write ["+inside+"/"+bits+"]")
	}
	r.Target = Target{Kind: PrefixTarget, Prefix: prefix}
	return nil
}

// bareIPv6 reads an IPv6 address or CIDR without brackets, which can have no ports: the last group would be one.
func (p *ruleParser) bareIPv6(r *Rule) *Error {
	start := p.off
	word := p.word("/")
	if bits, ok := leadingBits(p.rest()); ok {
		word += "/" + bits
		p.off += 1 + len(bits)
	}
	prefix, msg, fix := parsePrefix(word)
	if msg != "" {
		if strings.HasSuffix(msg, "is no address") {
			fix = "write IPv6 addresses with ports as [ADDRESS]:PORTS"
		}
		return p.fail(start, msg, fix)
	}
	r.Target = Target{Kind: PrefixTarget, Prefix: prefix}
	return nil
}

// address reads an IPv4 address or CIDR of which the part up to : or / has been read.
func (p *ruleParser) address(r *Rule, start int, word string) *Error {
	if bits, ok := leadingBits(p.rest()); ok {
		word += "/" + bits
		p.off += 1 + len(bits)
	}
	prefix, msg, fix := parsePrefix(word)
	if msg != "" {
		return p.fail(start, msg, fix)
	}
	r.Target = Target{Kind: PrefixTarget, Prefix: prefix}
	return nil
}

// ports reads :PORTS if it is there.
func (p *ruleParser) ports(r *Rule) *Error {
	if !strings.HasPrefix(p.rest(), ":") {
		return nil
	}
	p.off++
	for {
		at := p.off
		if err := p.portRange(r); err != nil {
			return err
		}
		if len(r.Ports.Ranges) > MaxRanges {
			return p.fail(at, fmt.Sprintf("more than %d ports and ranges", MaxRanges), "write several rules, or a range")
		}
		if !strings.HasPrefix(p.rest(), ",") {
			break
		}
		p.off++
	}
	if r.Ports.All {
		r.Ports.Ranges = nil
	}
	return nil
}

func (p *ruleParser) portRange(r *Rule) *Error {
	at := p.off
	word := p.word(",/")
	if word == "*" {
		r.Ports.All = true
		return nil
	}
	from, to, isRange := strings.Cut(word, "-")
	a, err := p.port(at, from)
	if err != nil {
		return err
	}
	b := a
	if isRange {
		if b, err = p.port(at+len(from)+1, to); err != nil {
			return err
		}
	}
	if b < a {
		return p.fail(at, fmt.Sprintf("the range %s runs backwards", word), fmt.Sprintf("write %d-%d", b, a))
	}
	r.Ports.Ranges = append(r.Ports.Ranges, PortRange{a, b})
	return nil
}

func (p *ruleParser) port(at int, s string) (uint16, *Error) {
	if s == "" {
		return 0, p.fail(at, "a port is missing", "write a port, a list 80,443, a range 1000-2000, or * for all")
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, p.fail(at, fmt.Sprintf("%q is no port number", s), "write ports as numbers, for example 443")
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > 65535 {
		return 0, p.fail(at, fmt.Sprintf("port %s is out of range", s), "ports are 1 to 65535, or * for all")
	}
	return uint16(n), nil
}

// proto reads /PROTO if it is there.
func (p *ruleParser) proto(r *Rule) *Error {
	if !strings.HasPrefix(p.rest(), "/") {
		return nil
	}
	at := p.off
	p.off++
	word := p.word("")
	switch word {
	case "tcp":
		r.Proto = TCP
	case "udp":
		r.Proto = UDP
	case "icmp":
		r.Proto = ICMP
	case "dns":
		r.Proto = DNS
	default:
		if proto, ports, ok := strings.Cut(word, ":"); ok {
			return p.fail(at, "the ports stand before the protocol", fmt.Sprintf("write %s:%s/%s", r.Target, ports, proto))
		}
		return p.fail(at+1, fmt.Sprintf("unknown protocol %q", word), "write /tcp, /udp, /icmp or /dns; a rule has no path")
	}
	return nil
}

// via reads the route and the end of the rule.
func (p *ruleParser) via(r *Rule) *Error {
	if p.rest() != "" && p.rest()[0] != ' ' && p.rest()[0] != '\t' {
		return p.fail(p.off, fmt.Sprintf("unexpected %q", p.rest()), "a rule is TARGET[:PORTS][/PROTO] [via ROUTE]")
	}
	p.space()
	if p.rest() == "" {
		return nil
	}
	at := p.off
	if word := p.word(""); word != "via" {
		return p.fail(at, fmt.Sprintf("unexpected %q", word), "a rule is TARGET[:PORTS][/PROTO] [via ROUTE]; write several rules one by one")
	}
	p.space()
	at = p.off
	route := p.word("")
	if msg, fix := checkRoute(route); msg != "" {
		return p.fail(at, msg, fix)
	}
	if r.Action == DenyRule {
		return p.fail(at, "a deny has no route", "remove via "+route)
	}
	r.Route = route
	if p.space(); p.rest() != "" {
		return p.fail(p.off, fmt.Sprintf("unexpected %q after the route", p.rest()), "write several rules one by one")
	}
	return nil
}

// complete refuses rules whose parts do not go together.
func (p *ruleParser) complete(r *Rule, start int) *Error {
	byName := r.Target.Kind == NameTarget || r.Target.Kind == SuffixTarget
	switch {
	case (r.Proto == ICMP || r.Proto == DNS) && r.Ports.Said():
		return p.fail(start, r.Proto.String()+" has no ports", fmt.Sprintf("write %s/%s", r.Target, r.Proto))
	case r.Proto == DNS && r.Target.Kind == PrefixTarget:
		return p.fail(start, "/dns is about names", "write a name, for example api.example.com/dns")
	case r.Action == AllowRule && !byName && !r.Ports.Said() && r.Proto != ICMP && r.Proto != DNS:
		one, all := *r, *r
		one.Ports, all.Ports = Ports{Ranges: []PortRange{{443, 443}}}, Ports{All: true}
		return p.fail(start, fmt.Sprintf("an allow of %s must say its ports", r.Target), fmt.Sprintf("write %s, or %s for all", one, all))
	}
	return nil
}

// checkRoute returns what is wrong with a route and what to write instead.
func checkRoute(route string) (msg, fix string) {
	name, named := strings.CutPrefix(route, "tunnel:")
	switch {
	case route == "direct", route == "tunnel", named && routeName(name):
		return "", ""
	case route == "":
		return "the route is missing", "write via direct, via tunnel or via tunnel:NAME"
	case route == "deny":
		return "deny is not a route of a rule", "put the rule under deny, or in --deny"
	case routeName(route):
		return fmt.Sprintf("unknown route %q", route), "write direct, tunnel or tunnel:" + route
	}
	return fmt.Sprintf("unknown route %q", route), "write direct, tunnel or tunnel:NAME"
}

// parsePrefix parses an address or CIDR, and says what is wrong with it.
func parsePrefix(s string) (p netip.Prefix, msg, fix string) {
	if strings.Contains(s, "%") {
		return p, fmt.Sprintf("%q has a zone", s), "write the address without %"
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p, fmt.Sprintf("%q is no address", s), "write an address like 192.0.2.1 or 2001:db8::1"
		}
		if a.Is4In6() {
			return p, fmt.Sprintf("%s is an IPv4 address in IPv6 clothes", s), "write " + a.Unmap().String()
		}
		return netip.PrefixFrom(a, a.BitLen()), "", ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Sprintf("%q is no CIDR", s), "write a CIDR like 192.0.2.0/24 or 2001:db8::/32"
	case p.Addr().Is4In6():
		return p, fmt.Sprintf("%s is an IPv4 range in IPv6 clothes", s), "write it as an IPv4 CIDR"
	case p != p.Masked():
		return p, fmt.Sprintf("%s has bits behind its prefix", s), fmt.Sprintf("write %s, or %s for the one address", p.Masked(), p.Addr())
	}
	return p, "", ""
}

// leadingBits returns the digits behind a leading slash, when that is all up to the next separator.
func leadingBits(s string) (string, bool) {
	if !strings.HasPrefix(s, "/") {
		return "", false
	}
	i := 1
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[1:i], i > 1
}

// urlHost picks the host and port out of a URL, for a hint.
func urlHost(s string) string {
	_, s, _ = strings.Cut(s, "://")
	if i := strings.IndexAny(s, "/?# \t"); i >= 0 {
		s = s[:i]
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	if s == "" {
		return "the host alone"
	}
	return s
}

// numeric reports whether the word can only have been meant as an IPv4 address.
func numeric(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == ""
}

func groupName(s string) bool {
	return len(s) > 1 && len(s) <= 64 && s[0] == '@' && strings.Trim(s[1:], "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func routeName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}
