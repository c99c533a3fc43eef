package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"api.github.com", ""},
		{" api.github.com ", "api.github.com"},
		{"API.GitHub.com.", "api.github.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"*.githubusercontent.com", ""},
		{"*.internal", ""},
		{"db.corp.example:5432", ""},
		{"db.corp.example:5432/tcp via tunnel", ""},
		{"db.corp.example   via\ttunnel:laptop", "db.corp.example via tunnel:laptop"},
		{"db.corp.example via direct", ""},
		{"a.example:80,443", ""},
		{"a.example:1000-2000,*", "a.example:*"},
		{"a.example:80-80", "a.example:80"},
		{"a.example/icmp", ""},
		{"a.example/dns", ""},
		{"192.0.2.1:443", ""},
		{"192.0.2.0/24:443/udp", ""},
		{"192.0.2.1/32:443", "192.0.2.1:443"},
		{"192.0.2.0/24/icmp", ""},
		{"[fd00::1]:443", ""},
		{"[fd00::/8]:*", ""},
		{"[FD00:0::1]:443", "[fd00::1]:443"},
		{"fd00::1/icmp", ""},
		{"@public:*", ""},
		{"@corp:443/tcp", ""},
		{"_sip.example:5060", ""},
	} {
		want := c.want
		if want == "" {
			want = c.in
		}
		r, err := ParseRule(c.in, AllowRule, Pos{File: FlagFile, Line: 1, Column: 1})
		if err != nil {
			t.Errorf("ParseRule(%q): %v", c.in, err)
			continue
		}
		if r.String() != want {
			t.Errorf("ParseRule(%q) = %q, want %q", c.in, r, want)
		}
	}
	for _, in := range []string{"192.0.2.1", "10.0.0.0/8", "fd00::1", "fd00::/8", "[fd00::1]", "@private", "a.example"} {
		if r, err := ParseRule(in, DenyRule, Pos{}); err != nil || !r.ports().All || r.protos() != Everything {
			t.Errorf("deny %q = %v %v, %v; want all ports and protocols", in, r.ports(), r.protos(), err)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for _, c := range []struct {
		in     string
		column int
		msg    string // a part of it
		fix    string // a part of it
	}{
		{"", 1, "empty", "api.example.com"},
		{"  ", 3, "empty", ""},
		{"*", 1, "* is not a target", "@public"},
		{"*:443", 1, "* is not a target", "@public"},
		{"*.com", 1, "public suffix", "*.example.com"},
		{"*.co.uk", 1, "public suffix", "*.example.co.uk"},
		{"*.ck", 1, "public suffix", ""},
		{"*.", 3, "not a name", ""},
		{"*foo.example", 1, "wildcard", "*.foo.example"},
		{"*.*.example.com", 3, "one wildcard", "*.example.com"},
		{"a.*.example", 1, "not a name", "*.example.com"},
		{"a..b", 1, "not a name", "host name"},
		{"https://api.example.com/v1", 1, "URL", "api.example.com"},
		{"api.example.com/v1", 17, "unknown protocol", "no path"},
		{"user@a.example", 5, "user name", "a.example"},
		{"!a.example", 1, "no !", "deny"},
		{"a.example:0", 11, "out of range", "1 to 65535"},
		{"a.example:65536", 11, "out of range", "1 to 65535"},
		{"a.example:80,99999999999999999999", 14, "out of range", ""},
		{"a.example:80,", 14, "missing", "80,443"},
		{"a.example:", 11, "missing", ""},
		{"a.example:https", 11, "no port number", "443"},
		{"a.example:443-80", 11, "backwards", "80-443"},
		{"a.example:80-", 14, "missing", ""},
		{"a.example/sctp", 11, "unknown protocol", "/tcp"},
		{"a.example/tcp:443", 10, "before the protocol", "a.example:443/tcp"},
		{"a.example b.example", 11, "unexpected", "one by one"},
		{"a.example via", 14, "route is missing", "via direct"},
		{"a.example via laptop", 15, "unknown route", "tunnel:laptop"},
		{"a.example via deny", 15, "not a route", "deny"},
		{"a.example via tunnel now", 22, "after the route", ""},
		{"192.0.2.1", 1, "must say its ports", "192.0.2.1:443"},
		{"10.0.0.0/8", 1, "must say its ports", "10.0.0.0/8:*"},
		{"fd00::1", 1, "must say its ports", "[fd00::1]:443"},
		{"@public", 1, "must say its ports", "@public:443"},
		{"@Corp:443", 1, "no group name", "lower case"},
		{"10.0.0.1/8:443", 1, "bits behind", "10.0.0.0/8"},
		{"10.0.0.0/33:443", 1, "no CIDR", ""},
		{"10.0.0:443", 1, "no address", ""},
		{"2130706433:80", 1, "no address", ""},
		{"0x7f.1:80", 1, "not a name", ""},
		{"::ffff:10.0.0.1", 1, "IPv6 clothes", "10.0.0.1"},
		{"[fe80::1%eth0]:443", 2, "zone", ""},
		{"[fd00::1:443", 1, "not closed", "[ADDRESS]:PORTS"},
		{"[fd00::1]/64:443", 10, "inside the brackets", "[fd00::1/64]"},
		{"[10.0.0.1]:443", 1, "brackets are for IPv6", "10.0.0.1"},
		{"[fd00::1]443", 10, "unexpected", ""},
		{"fd00::1::443", 1, "no address", "[ADDRESS]:PORTS"},
		{"localhost:5432", 1, "the sandbox itself", "host.weir.internal"},
		{"a.example:443/icmp", 1, "icmp has no ports", "a.example/icmp"},
		{"a.example:443/dns", 1, "dns has no ports", "a.example/dns"},
		{"10.0.0.1/dns", 1, "about names", ""},
		{"bü cher.example", 4, "unexpected", ""},
		{"ü:http", 3, "no port number", ""},
		{strings.Repeat("a", MaxRuleLen+1), 1, "octets long", ""},
		{"a.example:1" + strings.Repeat(",1", MaxRanges), 11 + 2*MaxRanges, "more than", ""},
	} {
		_, err := ParseRule(c.in, AllowRule, Pos{File: FlagFile, Line: 3, Column: 1})
		e, ok := err.(*Error)
		if !ok {
			t.Errorf("ParseRule(%.60q) = %v, want an *Error", c.in, err)
			continue
		}
		if e.Column != c.column || !strings.Contains(e.Msg, c.msg) || !strings.Contains(e.Fix, c.fix) || e.File != FlagFile || e.Line != 3 {
			t.Errorf("ParseRule(%.60q): %v, want column %d, %q, fix %q", c.in, err, c.column, c.msg, c.fix)
		}
	}
	if _, err := ParseRule("a.example via tunnel", DenyRule, Pos{}); err == nil {
		t.Error("a deny with a route passes")
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ in, part string }{
		{"*.github.io", "shared"},
		{"*.internal", ""},
		{"*.example.com", ""},
		{"@metadata:80", "opens nothing"},
		{"0.0.0.0/0:443", "does not open 10.0.0.0/8"},
		{"10.0.0.0/8:443", ""},
		{"203.0.113.0/24:443", ""},
	} {
		r, err := ParseRule(c.in, AllowRule, Pos{})
		if err != nil || (c.part == "") != (r.Warning == "") || !strings.Contains(r.Warning, c.part) {
			t.Errorf("ParseRule(%q): warning %q, %v; want %q", c.in, r.Warning, err, c.part)
		}
	}
}

// FuzzRule: the normal spelling of a rule is read back as the same rule, and no rule makes New panic.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"api.github.com", "*.a.example:80,443/tcp via tunnel:x", "10.0.0.0/8:*", "[fd00::/8]:1-2/udp", "@public:443",
		"fd00::1/icmp", "a.example/dns", "*", "*.com", "::ffff:1.2.3.4", "[::1", "a:1-", "ü.example", "host.weir.internal:1", "a\x00b"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, allow bool) {
		action := DenyRule
		if allow {
			action = AllowRule
		}
		r, err := ParseRule(s, action, Pos{File: FlagFile, Line: 1, Column: 1})
		if err != nil {
			if e := err.(*Error); e.Column < 1 || e.Column > len(s)+1 || e.Msg == "" {
				t.Fatalf("ParseRule(%q): column %d, %q", s, e.Column, e.Msg)
			}
			return
		}
		again, err := ParseRule(r.String(), action, r.Pos)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("ParseRule(%q) = %v, read back as %v, %v", s, r, again, err)
		}
		if r.Target.Kind != GroupTarget {
			if _, err := compile([]Rule{r}, nil, DefaultRoute); err != nil {
				t.Fatal(err)
			}
		}
	})
}
