package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestDecideName(t *testing.T) {
	for _, c := range []struct{ name, rules, question, want string }{
		{"covered", "a.example", "a.example.", "allow"},
		{"covered in capitals", "a.example", "A.Example", "allow"},
		{"covered on some port only", "a.example:9", "a.example", "allow"},
		{"covered for the question only", "a.example/dns", "a.example", "allow"},
		{"covered by a wildcard", "*.a.example", "y.x.a.example", "allow"},
		{"the apex is not", "*.a.example", "a.example", "deny dns-blocked"},
		{"not covered", "a.example", "b.example", "deny dns-blocked"},
		{"not covered, a sub-domain", "a.example", "data.a.example", "deny dns-blocked"},
		{"service labels", "a.example", "_postgresql._tcp.a.example", "allow"},
		{"service labels of a port", "a.example", "_8443._https.a.example", "allow"},
		{"one underscore label", "a.example", "_dmarc.a.example", "deny dns-blocked"},
		{"@public covers all names", "@public:443", "b.example", "allow"},
		{"@any covers all names", "@any:443", "b.example", "allow"},
		{"@any covers the root", "@any:443", ".", "allow"},
		{"a CIDR covers none", "0.0.0.0/0:443", "b.example", "deny dns-blocked"},
		{"@private covers none", "@private:443", "b.example", "deny dns-blocked"},
		{"reverse names of a covered address", "203.0.113.0/24:*", "5.113.0.203.in-addr.arpa", "deny dns-blocked"},
		{"only denies cover the rest", "-a.example", "b.example", "allow"},
		{"denied", "@public:* -a.example", "a.example", "deny rule"},
		{"denied by wildcard", "@public:* -*.a.example", "x.a.example", "deny rule"},
		{"denied by service label", "@public:* -a.example", "_x._tcp.a.example", "deny rule"},
		{"a deny of some ports is about flows", "@public:* -a.example:25", "a.example", "allow"},
		{"a deny of a protocol is about flows", "@public:* -a.example/udp", "a.example", "allow"},
		{"a deny of questions", "@public:* -a.example/dns", "a.example", "deny rule"},
		{"a deny of @any", "a.example -@any", "a.example", "deny rule"},
		{"a deny of @public leaves names of private addresses", "a.example:443 -@public", "a.example", "allow"},
		{"the host", "a.example", "host.weir.internal", "allow"},
		{"no rule: audit", "", "a.example", "would-deny dns-blocked"},
		{"audit", "mode=audit a.example", "b.example", "would-deny dns-blocked"},
		{"enforce without a rule", "mode=enforce", "a.example", "deny dns-blocked"},
		{"a search domain", "a.example", "a.example.corp.example", "deny dns-blocked expansion"},
		{"not a name", "@public:*", "a b.example", "deny malformed"},
		{"DoH", "@public:*", "dns.google", "deny encrypted-dns"},
		{"DoH, only denies", "-a.example", "dns.google", "deny encrypted-dns"},
		{"DoH, named", "dns.google", "dns.google", "allow"},
		{"DoH, by wildcard", "*.quad9.net", "dns.quad9.net", "deny encrypted-dns"},
		{"DoH, not covered at all", "a.example", "dns.google", "deny dns-blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := rules(t, strings.Fields(c.rules)...).DecideName(c.question, 1)
			got := strings.TrimSpace(d.Verdict.String() + " " + d.Reason)
			if d.Expansion {
				got += " expansion"
			}
			if got != c.want || d.Rule == "" || d.Route == "" {
				t.Errorf("rules %q, question %q: %s %+v, want %s", c.rules, c.question, got, d, c.want)
			}
		})
	}
}

func TestQuestionFollowsTheRoute(t *testing.T) {
	p := rules(t, "db.example:5432 via tunnel", "a.example")
	if d := p.DecideName("db.example", 1); d.Route != "tunnel" {
		t.Errorf("db.example is asked %s", d.Route)
	}
	if d := p.DecideName("a.example", 1); d.Route != "direct" {
		t.Errorf("a.example is asked %s", d.Route)
	}
}

func TestAnswerAllowed(t *testing.T) {
	for _, c := range []struct {
		name, rules, question, addr string
		want                        bool
	}{
		{"public", "a.example", "a.example", "203.0.113.5", true},
		{"private for a public name", "a.example", "a.example", "10.0.0.1", false},
		{"private in audit", "mode=audit", "a.example", "10.0.0.1", false},
		{"private, address rule", "a.example 10.0.0.0/8:5432", "a.example", "10.0.0.1", true},
		{"private, address rule for another", "a.example 10.1.0.0/16:5432", "a.example", "10.0.0.1", false},
		{"private, @private", "a.example @private:443", "a.example", "10.0.0.1", true},
		{"private, @any", "@any:443", "a.example", "10.0.0.1", false},
		{"private, exact name with ports", "a.example:5432", "A.example.", "10.0.0.1", true},
		{"private, exact name and service labels", "a.example:5432", "_pg._tcp.a.example", "10.0.0.1", true},
		{"private, exact name without ports", "a.example", "a.example", "10.0.0.1", false},
		{"private, exact name for questions", "a.example/dns", "a.example", "10.0.0.1", false},
		{"private, wildcard with ports", "*.a.example:5432", "x.a.example", "10.0.0.1", false},
		{"private, a local name", "*.internal", "db.internal", "10.0.0.1", true},
		{"private, a single label", "nas", "nas", "192.168.1.9", true},
		{"private inside IPv6", "a.example", "a.example", "64:ff9b::10.0.0.1", false},
		{"mapped private", "a.example", "a.example", "::ffff:10.0.0.1", false},
		{"loopback", "a.example:443 127.0.0.1:443", "a.example", "127.0.0.1", false},
		{"loopback for a local name", "*.internal:443", "db.internal", "127.0.0.1", false},
		{"metadata", "metadata.google.internal:80 169.254.169.254:80", "metadata.google.internal", "169.254.169.254", false},
		{"link-local", "nas:80", "nas", "fe80::1", false},
		{"the host itself", "a.example:443 198.51.100.10:443", "a.example", "198.51.100.10", false},
		{"weir itself", "a.example:443", "a.example", "10.77.0.1", false},
		{"unspecified", "a.example:443", "a.example", "0.0.0.0", false},
		{"metadata inside IPv6", "a.example:443", "a.example", "2002:a9fe:a9fe::1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ok, reason := rules(t, strings.Fields(c.rules)...).AnswerAllowed(c.question, netip.MustParseAddr(c.addr))
			if ok != c.want || ok != (reason == "") || !ok && reason != ReasonRebinding {
				t.Errorf("rules %q: %s for %s: %v %q", c.rules, c.addr, c.question, ok, reason)
			}
		})
	}
}

func TestDecideChain(t *testing.T) {
	for _, c := range []struct {
		rules, name string
		want        Verdict
	}{
		{"a.example", "cdn.example", Allow},
		{"a.example -cdn.example", "CDN.example.", Deny},
		{"a.example -cdn.example:25", "cdn.example", Allow},
		{"mode=audit -*.cdn.example", "x.cdn.example", WouldDeny},
		{"a.example", "not a name", Allow},
	} {
		if d := rules(t, strings.Fields(c.rules)...).DecideChain(c.name); d.Verdict != c.want {
			t.Errorf("rules %q: %s is %+v", c.rules, c.name, d)
		}
	}
}
