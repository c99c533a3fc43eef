package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// rules makes a policy from words: "-" before a rule makes it a deny, "mode=", "route=" and "host-port=" set the rest.
func rules(t testing.TB, words ...string) *Policy {
	t.Helper()
	own := []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("192.168.7.2"), netip.MustParseAddr("2001:db8:5::10")}
	c := Config{HostAddrs: func() []netip.Addr { return own }, Gateway: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}, Search: []string{"corp.example"}}
	for _, w := range words {
		w = strings.ReplaceAll(w, "_", " ")
		key, value, _ := strings.Cut(w, "=")
		switch {
		case key == "mode":
			c.Mode = value
		case key == "route":
			c.Route = value
		case key == "host-port":
			c.HostPorts = append(c.HostPorts, 5432)
		case w[0] == '-':
			c.Deny = append(c.Deny, w[1:])
		default:
			c.Allow = append(c.Allow, w)
		}
	}
	p, err := New(c)
	if err != nil {
		t.Fatalf("New(%q): %v", words, err)
	}
	return p
}

// flow makes a question from words: the destination, then "udp", "icmp", "asked=a,b", "chain=", "heard=", "claim=",
// "malformed", "early" for the address stage, "connect=PORT" and "route=".
func flow(t testing.TB, text string) Question {
	t.Helper()
	words := strings.Fields(text)
	q := Question{Network: "tcp", Final: true}
	if strings.Contains(text, " icmp") {
		q.Dst = netip.AddrPortFrom(netip.MustParseAddr(words[0]), 0)
	} else {
		q.Dst = netip.MustParseAddrPort(words[0])
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "udp", "icmp":
			q.Network = key
		case "asked":
			q.Asked = strings.Split(value, ",")
		case "chain":
			q.Chain = strings.Split(value, ",")
		case "heard":
			q.Heard = strings.Split(value, ",")
		case "claim":
			q.Claim, q.ClaimSource = value, "sni"
		case "malformed":
			q.Malformed = "two names"
		case "early":
			q.Final = false
		case "route":
			q.Route = value
		case "connect":
			q.ConnectPort = netip.MustParseAddrPort("0.0.0.0:" + value).Port()
		case "connect-ip":
			q.ConnectIP = netip.MustParseAddr(value)
		default:
			t.Fatalf("unknown word %q", w)
		}
	}
	return q
}

// said is a decision in one line: verdict, reason, and how it stands.
func said(d Decision) string {
	s := d.Verdict.String()
	if d.Reason != "" {
		s += " " + d.Reason
	}
	if d.AskName {
		s += " ask"
	}
	return s
}

// TestContract has a row for every sentence of contract section 3 about flows.
func TestContract(t *testing.T) {
	const pub, pub2 = "203.0.113.5", "203.0.113.6"
	for _, c := range []struct{ name, rules, flow, want string }{
		// Targets.
		{"a name, not its sub-domains", "a.example", pub + ":443 asked=x.a.example", "deny default"},
		{"a wildcard, any depth", "*.a.example", pub + ":443 asked=y.x.a.example", "allow"},
		{"a wildcard, not the apex", "*.a.example", pub + ":443 asked=a.example", "deny default"},
		{"a wildcard, at label boundaries", "*.a.example", pub + ":443 asked=nota.example", "deny default"},
		{"a wildcard, at the end", "*.a.example", pub + ":443 asked=x.a.example.evil.example", "deny default"},
		{"an address", pub + ":443", pub + ":443", "allow"},
		{"an address, no other", pub + ":443", pub2 + ":443", "deny default"},
		{"a CIDR", "203.0.113.0/24:443", pub + ":443", "allow"},
		{"a CIDR of IPv6", "[2001:db8::/32]:443", "[2001:db8::1]:443", "allow"},
		{"@public", "@public:443", pub + ":443", "allow"},
		{"@public, not private", "@public:443", "10.0.0.1:443", "deny private"},
		{"@private", "@private:443", "10.0.0.1:443", "allow"},
		{"@private, not public", "@private:443", pub + ":443", "deny default"},
		{"@private holds ULA", "@private:443", "[fd12::1]:443", "allow"},
		{"@private holds CGNAT", "@private:443", "100.64.1.1:443", "allow"},
		{"@private holds 192.0.0/24", "@private:443", "192.0.0.8:443", "allow"},
		{"@private holds 198.18/15", "@private:443", "198.19.255.255:443", "allow"},
		{"the documentation ranges are public", "@public:443", "192.0.2.1:443", "allow"},
		{"@any is public too", "@any:443", pub + ":443", "allow"},
		{"@any names no private address", "@any:443", "10.0.0.1:443", "deny private"},
		{"IPv6 with ports in brackets", "[fd00::1]:443", "[fd00::1]:443", "allow"},

		// Ports.
		{"a name covers 80", "a.example", pub + ":80 asked=a.example", "allow"},
		{"a name covers 443", "a.example", pub + ":443 asked=a.example", "allow"},
		{"a name covers no other port", "a.example", pub + ":8443 asked=a.example", "deny port"},
		{"a list of ports", "a.example:22,8443", pub + ":8443 asked=a.example", "allow"},
		{"a range of ports", "a.example:1000-2000", pub + ":2000 asked=a.example", "allow"},
		{"all ports", "a.example:*", pub + ":1 asked=a.example", "allow"},
		{"an address on another port", pub + ":443", pub + ":444", "deny port"},
		{"a deny without ports covers all", "@public:* -a.example", pub + ":9999 asked=a.example", "deny rule"},
		{"a deny with ports covers those", "@public:* -a.example:25", pub + ":9999 asked=a.example", "allow"},

		// Protocols.
		{"without protocol: tcp", pub + ":53", pub + ":53", "allow"},
		{"without protocol: udp", pub + ":53", pub + ":53 udp", "allow"},
		{"without protocol: no icmp", pub + ":*", pub + " icmp", "deny port"},
		{"icmp said", pub + "/icmp", pub + " icmp", "allow"},
		{"icmp by name", "a.example/icmp", pub + " icmp asked=a.example", "allow"},
		{"tcp said, not udp", pub + ":53/tcp", pub + ":53 udp", "deny port"},
		{"a deny covers every protocol", "@public:* @public/icmp -" + pub, pub + " icmp", "deny rule"},

		// Mode and default.
		{"no rule: audit", "", pub + ":443", "would-deny default"},
		{"any rule: enforce", "a.example", pub + ":443", "deny default"},
		{"only denies: public is open", "-a.example", pub + ":9999", "allow"},
		{"only denies: private is not", "-a.example", "10.0.0.1:80", "deny private"},
		{"any allow: the rest is closed", "b.example -a.example", pub + ":443", "deny default"},
		{"enforce without a rule denies all", "mode=enforce", pub + ":443", "deny default"},
		{"a host port is no rule", "host-port=", pub + ":443", "would-deny default"},
		{"reserved space is not public", "-a.example", "240.0.0.1:443", "deny default"},

		// Guards.
		{"host loopback", "@any:*", "127.0.0.1:5432", "deny guard"},
		{"host loopback of IPv6", "@any:*", "[::1]:5432", "deny guard"},
		{"the host's own address", "@any:*", "198.51.100.10:22", "deny guard"},
		{"the host's own private address", "@private:*", "192.168.7.2:22", "deny guard"},
		{"the host's own IPv6 address", "@public:*", "[2001:db8:5::10]:22", "deny guard"},
		{"weir's own address", "@private:*", "10.77.0.1:22", "deny guard"},
		{"link-local", "@any:*", "169.254.1.1:80", "deny guard"},
		{"link-local of IPv6", "@any:*", "[fe80::1]:80", "deny guard"},
		{"metadata", "@any:* @metadata:*", "169.254.169.254:80", "deny guard"},
		{"metadata of IPv6", "@private:*", "[fd00:ec2::254]:80", "deny guard"},
		{"metadata in CGNAT space", "@private:*", "100.100.100.200:80", "deny guard"},
		{"metadata in public space", "@public:*", "168.63.129.16:80", "deny guard"},
		{"unspecified", "@any:*", "0.0.0.0:80", "deny guard"},
		{"unspecified of IPv6", "@any:*", "[::]:80", "deny guard"},
		{"multicast", "@any:*", "224.0.0.251:5353 udp", "deny guard"},
		{"broadcast", "@any:*", "255.255.255.255:67 udp", "deny guard"},
		{"0.0.0.0/0 lifts no guard", "0.0.0.0/0:*", "127.0.0.1:80", "deny guard"},
		{"::/0 lifts no guard", "[::/0]:*", "[::1]:80", "deny guard"},
		{"a name lifts no guard", "a.example:5432", "127.0.0.1:5432 asked=a.example", "deny guard"},
		{"exactly the address lifts", "127.0.0.1:5432", "127.0.0.1:5432", "allow"},
		{"exactly the address, other port", "127.0.0.1:5432", "127.0.0.1:5433", "deny guard"},
		{"its name lifts", "host.weir.internal:5432", "127.0.0.1:5432", "allow"},
		{"its name lifts IPv6 too", "host.weir.internal:5432", "[::1]:5432", "allow"},
		{"its name without ports", "host.weir.internal", "127.0.0.1:80", "allow"},
		{"a CIDR wholly inside lifts", "127.0.0.0/16:*", "127.0.9.9:80", "allow"},
		{"the guarded range itself lifts", "169.254.0.0/16:80", "169.254.7.7:80", "allow"},
		{"but not what is guarded inside it", "169.254.0.0/16:80", "169.254.169.254:80", "deny guard"},
		{"metadata exactly", "169.254.169.254:80", "169.254.169.254:80", "allow"},
		{"the host's own address exactly", "198.51.100.10:22", "198.51.100.10:22", "allow"},
		{"the host's own address by CIDR", "198.51.100.0/24:22", "198.51.100.10:22", "deny guard"},
		{"a host port", "host-port= mode=enforce", "127.0.0.1:5432", "allow"},
		{"a host port, no other", "host-port= mode=enforce", "127.0.0.1:5433", "deny guard"},
		{"a host port, other loopback", "host-port= mode=enforce", "127.0.0.2:5432", "deny guard"},
		{"a deny beats a host port", "host-port= -127.0.0.1", "127.0.0.1:5432", "deny rule"},
		{"a deny beats a lifted guard", "127.0.0.1:5432 -127.0.0.0/8", "127.0.0.1:5432", "deny rule"},

		// @private is denied unless an allow names it.
		{"private by default", "a.example", "10.0.0.1:443", "deny private"},
		{"private by name without ports", "a.example", "10.0.0.1:443 asked=a.example", "deny private"},
		{"private by name with ports", "a.example:443", "10.0.0.1:443 asked=a.example", "allow"},
		{"private by wildcard", "*.a.example:443", "10.0.0.1:443 asked=x.a.example", "deny private"},
		{"private by wildcard of local names", "*.internal:443", "10.0.0.1:443 asked=db.internal", "allow"},
		{"private by address", "10.0.0.1:443", "10.0.0.1:443", "allow"},
		{"private by CIDR inside", "10.0.0.0/16:443", "10.0.0.1:443", "allow"},
		{"private by 0.0.0.0/0", "0.0.0.0/0:443", "10.0.0.1:443", "deny private"},
		{"private on another port", "10.0.0.1:443", "10.0.0.1:22", "deny port"},

		// IPv4 inside IPv6.
		{"mapped is IPv4", pub + ":443", "[::ffff:203.0.113.5]:443", "allow"},
		{"mapped loopback", "@any:*", "[::ffff:127.0.0.1]:443", "deny guard"},
		{"NAT64 of public", "@public:443", "[64:ff9b::203.0.113.5]:443", "allow"},
		{"NAT64 of private", "@public:443", "[64:ff9b::10.0.0.1]:443", "deny private"},
		{"NAT64 of private, named", "@public:443 10.0.0.0/8:443", "[64:ff9b::10.0.0.1]:443", "allow"},
		{"NAT64 of metadata", "@any:*", "[64:ff9b::169.254.169.254]:80", "deny guard"},
		{"NAT64 of the host", "@any:*", "[64:ff9b::198.51.100.10]:80", "deny guard"},
		{"NAT64 of denied", "@public:* -203.0.113.0/24", "[64:ff9b::203.0.113.5]:443", "deny rule"},
		{"6to4 of metadata", "@any:*", "[2002:a9fe:a9fe::]:80", "deny guard"},
		{"Teredo of loopback", "@any:*", "[2001:0:cb00:7105::80ff:fffe]:80", "deny guard"},
		{"exactly the IPv6 address", "[64:ff9b::10.0.0.1]:443", "[64:ff9b::10.0.0.1]:443", "allow"},

		// Evidence and claim.
		{"1 evidence alone, address stage", "a.example", pub + ":443 asked=a.example early", "allow"},
		{"1 a chain member is no evidence", "c.example", pub + ":443 asked=a.example chain=c.example", "deny default"},
		{"1 service labels are dropped", "a.example:5432", pub + ":5432 asked=_postgresql._tcp.a.example", "allow"},
		{"1 a single underscore label is not", "a.example", pub + ":443 asked=_dmarc.a.example", "deny default"},
		{"1 answers of other servers are no evidence", "a.example", pub + ":443 heard=a.example", "deny default"},
		{"1 evidence belongs to a route", "a.example:443_via_tunnel", pub + ":443 asked=a.example route=direct", "deny default"},
		{"2 a claim is never enough alone", "a.example", pub + ":443 claim=a.example", "deny no-evidence ask"},
		{"3 evidence and claim", "a.example", pub + ":443 asked=a.example claim=a.example", "allow"},
		{"3 evidence and another allowed claim", "a.example b.example", pub + ":443 asked=a.example claim=b.example", "allow"},
		{"3 evidence and a claim of another", "a.example", pub + ":443 asked=a.example claim=b.example", "deny name-mismatch"},
		{"3 a claim that is allowed by another route", "a.example b.example_via_tunnel", pub + ":443 asked=a.example claim=b.example", "deny name-mismatch"},
		{"3 a claim on the wrong port", "a.example b.example:80", pub + ":443 asked=a.example claim=b.example", "deny name-mismatch"},
		{"3 a shared address, claim allowed", "a.example", pub + ":443 asked=a.example,b.example claim=a.example", "allow"},
		{"3 no evidence yet: ask", "a.example", pub + ":443 early", "deny default ask"},
		{"3 no evidence, no name can save it", "a.example", pub + ":22 early", "deny default"},
		{"3 evidence of another name, claim allowed", "a.example", pub + ":443 asked=b.example claim=a.example", "deny no-evidence ask"},
		{"3 no evidence, claim not allowed", "a.example", pub + ":443 claim=b.example", "deny default"},
		{"3 no evidence, claim on another port", "a.example:8443", pub + ":443 claim=a.example", "deny port"},
		{"3 no evidence, private, claim allowed", "a.example:443", "10.0.0.1:443 early", "deny private ask"},
		{"3 no evidence, private, no rule of ports", "a.example", "10.0.0.1:443 early", "deny private"},
		{"4 no claim, one name", "a.example:22", pub + ":22 asked=a.example", "allow"},
		{"4 no claim, all allowed", "a.example b.example", pub + ":443 asked=a.example,b.example", "allow"},
		{"4 no claim, one is not allowed", "a.example", pub + ":443 asked=a.example,b.example", "deny ambiguous-name"},
		{"4 no claim, one on another port", "a.example:22 b.example:443", pub + ":22 asked=a.example,b.example", "deny ambiguous-name"},
		{"4 ambiguous, address stage", "a.example", pub + ":443 asked=a.example,b.example early", "allow"},
		{"4 an address rule, ambiguous", pub + ":443 a.example", pub + ":443 asked=a.example,b.example", "allow"},
		{"4 an address rule, claim of another", pub + ":443 a.example", pub + ":443 asked=a.example claim=b.example", "allow"},
		{"4 an address rule, claim without evidence", pub + ":443", pub + ":443 claim=b.example", "allow"},
		{"4 an address rule, malformed", pub + ":443", pub + ":443 malformed", "allow"},
		{"5 a deny needs evidence only", "@public:* -b.example", pub + ":443 asked=b.example", "deny rule"},
		{"5 a deny needs a chain member only", "@public:* -b.example", pub + ":443 asked=a.example chain=b.example", "deny rule"},
		{"5 a deny needs a claim only", "@public:* -b.example", pub + ":443 claim=b.example", "deny rule"},
		{"5 a deny by what others answered", "@public:* -b.example", pub + ":443 heard=b.example", "deny rule"},
		{"5 a deny by wildcard", "@public:* -*.b.example", pub + ":443 claim=x.b.example", "deny rule"},
		{"5 a deny, whatever else is bound", "a.example -b.example", pub + ":443 asked=a.example,b.example claim=a.example", "deny rule"},
		{"5 a deny by service label", "@public:* -b.example", pub + ":443 asked=_x._tcp.b.example", "deny rule"},
		{"5 a deny by default list", "-b.example", pub + ":443 claim=b.example", "deny rule"},
		{"malformed, names matter", "a.example", pub + ":443 asked=a.example malformed", "deny malformed"},
		{"malformed, no evidence", "a.example", pub + ":443 malformed", "deny malformed"},
		{"malformed, only denies", "-b.example", pub + ":443 malformed", "deny malformed"},
		{"malformed, an address rule beside denies of names", "203.0.113.0/24:443 -b.example", pub + ":443 malformed", "deny malformed"},
		{"malformed, an address rule beside denies of names on another port", "203.0.113.0/24:443 -b.example:25", pub + ":443 malformed", "allow"},
		{"malformed, denies of addresses", "-192.0.2.1", pub + ":443 malformed", "allow"},
		{"a claim that is no name is malformed", "a.example", pub + ":443 asked=a.example claim=[a.example]", "deny malformed"},
		{"the case of a claim does not matter", "@public:* -b.example", pub + ":443 claim=B.Example.", "deny rule"},
		{"the order does not matter", "-a.example a.example", pub + ":443 asked=a.example", "deny rule"},

		// CONNECT: the authority is a claim, on its own port.
		{"connect to an allowed name", "proxy.example:3128 a.example:443", pub + ":3128 asked=proxy.example claim=a.example connect=443", "allow"},
		{"connect to another port", "proxy.example:3128 a.example:443", pub + ":3128 asked=proxy.example claim=a.example connect=22", "deny name-mismatch"},
		{"connect to another name", "proxy.example:3128 a.example:443", pub + ":3128 asked=proxy.example claim=b.example connect=443", "deny name-mismatch"},
		{"connect through an allowed address", pub + ":3128", pub + ":3128 claim=b.example connect=443", "allow"},
		{"connect to a denied name", pub + ":3128 -b.example:443", pub + ":3128 claim=b.example connect=443", "deny rule"},
		{"connect to a denied address", pub + ":3128 -192.0.2.9", pub + ":3128 connect-ip=192.0.2.9 connect=443", "deny rule"},
		{"connect to an allowed address", "proxy.example:3128 192.0.2.9:443", pub + ":3128 asked=proxy.example connect-ip=192.0.2.9 connect=443", "allow"},
		{"connect to an address", "proxy.example:3128", pub + ":3128 asked=proxy.example connect-ip=192.0.2.9 connect=443", "deny name-mismatch"},

		// Encrypted DNS.
		{"DoT", "@public:*", pub + ":853", "deny encrypted-dns"},
		{"DoQ", "@public:*", pub + ":853 udp", "deny encrypted-dns"},
		{"DoT, port named", "203.0.113.0/24:853", pub + ":853", "allow"},
		{"DoT, in a range", "203.0.113.0/24:800-900", pub + ":853", "deny encrypted-dns"},
		{"DoT, address named", pub + ":*", pub + ":853", "allow"},
		{"DoT by default", "-a.example", pub + ":853", "deny encrypted-dns"},
		{"DoT without a rule", "a.example", pub + ":853", "deny encrypted-dns"},
		{"DoH by address", "@public:443", "1.1.1.1:443", "deny encrypted-dns"},
		{"DoH by address, other service", "@public:*", "1.1.1.1:80", "allow"},
		{"DoH by claim", "@public:443", pub + ":443 claim=dns.google", "deny encrypted-dns"},
		{"DoH by evidence", "@public:443", pub + ":443 asked=cloudflare-dns.com", "deny encrypted-dns"},
		{"DoH, address named", "1.1.1.1:443", "1.1.1.1:443", "allow"},
		{"DoH, name named", "dns.google", "8.8.8.8:443 asked=dns.google claim=dns.google", "allow"},
		{"DoH behind another name", "a.example", "8.8.8.8:443 asked=a.example claim=a.example", "deny encrypted-dns"},
		{"plain DNS to an explicit server", "8.8.8.8:53", "8.8.8.8:53 udp", "allow"},

		// Audit.
		{"audit passes", "mode=audit a.example", pub + ":22", "would-deny default"},
		{"audit, denied by rule", "mode=audit -a.example", pub + ":443 asked=a.example", "would-deny rule"},
		{"audit, mismatch", "mode=audit a.example", pub + ":443 asked=a.example claim=b.example", "would-deny name-mismatch"},
		{"audit, encrypted DNS", "mode=audit @public:*", pub + ":853", "would-deny encrypted-dns"},
		{"audit keeps guards", "mode=audit", "127.0.0.1:80", "deny guard"},
		{"audit keeps @private", "mode=audit", "10.0.0.1:80", "deny private"},
		{"audit keeps private on other ports", "mode=audit 10.0.0.1:80", "10.0.0.1:81", "deny port"},
		{"audit keeps NAT64 of private", "mode=audit", "[64:ff9b::10.0.0.1]:80", "deny private"},
		{"audit, private named and denied", "mode=audit 10.0.0.0/8:80 -10.0.0.1", "10.0.0.1:80", "would-deny rule"},
		{"audit, private and only denied", "mode=audit -10.0.0.1", "10.0.0.1:80", "deny rule"},
		{"audit, address stage, a claim may save", "mode=audit a.example", pub + ":443 early", "would-deny default"},
		{"audit, private, a claim may save", "mode=audit a.example:443", "10.0.0.1:443 early", "deny private ask"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := rules(t, strings.Fields(c.rules)...).Decide(flow(t, c.flow))
			if got := said(d); got != c.want {
				t.Errorf("rules %q, flow %q: %s (%s), want %s", c.rules, c.flow, got, d.Rule, c.want)
			}
			if (d.Verdict == Allow) != (d.Reason == "") {
				t.Errorf("verdict %s with reason %q", d.Verdict, d.Reason)
			}
			if d.Rule == "" || d.Route == "" {
				t.Errorf("decision without rule or route: %+v", d)
			}
		})
	}
}

func TestSettled(t *testing.T) {
	for _, c := range []struct {
		name, rules, flow string
		want              bool
	}{
		{"guard", "@public:*", "127.0.0.1:80 early", true},
		{"deny by address", "@public:* -203.0.113.5", "203.0.113.5:80 early", true},
		{"deny by evidence", "@public:* -a.example", "203.0.113.5:80 asked=a.example early", true},
		{"nothing can save it", "203.0.113.5:80", "203.0.113.5:81 early", true},
		{"a claim may save it", "a.example", "203.0.113.5:80 early", false},
		{"by evidence", "a.example", "203.0.113.5:80 asked=a.example early", false},
		{"by exact address", "203.0.113.5:443", "203.0.113.5:443 early", true},
		{"by wide address, a claim may show DoH", "@public:443", "203.0.113.5:443 early", false},
		{"by wide address", "@public:5432", "203.0.113.5:5432 early", true},
		{"by address, a claim may be denied", "@public:* -a.example", "203.0.113.5:5432 early", false},
		{"by default, a claim may be denied", "-a.example", "203.0.113.5:5432 early", false},
		{"by default", "-192.0.2.1", "203.0.113.5:5432 early", true},
		{"icmp has no claim", "a.example/icmp", "203.0.113.5 icmp asked=a.example early", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := rules(t, strings.Fields(c.rules)...).Decide(flow(t, c.flow)); d.Settled != c.want {
				t.Errorf("rules %q, flow %q: %+v", c.rules, c.flow, d)
			}
		})
	}
}

// TestRoutes: two allows with different routes, the more specific target wins, a tie is an error.
func TestRoutes(t *testing.T) {
	via := func(rules ...string) []string { return rules }
	for _, c := range []struct {
		name        string
		rules       []string
		flow, route string
		rule        string
	}{
		{"default", via("a.example"), "203.0.113.5:443 asked=a.example", "direct", "flag:1"},
		{"route of the app", via("route=tunnel", "a.example"), "203.0.113.5:443 asked=a.example", "tunnel", "flag:1"},
		{"route of the rule", via("a.example via tunnel:x"), "203.0.113.5:443 asked=a.example", "tunnel:x", "flag:1"},
		{"name over wildcard", via("*.example.com", "a.example.com via tunnel"), "203.0.113.5:443 asked=a.example.com", "tunnel", "flag:2"},
		{"longer wildcard", via("*.b.example.com via tunnel", "*.example.com"), "203.0.113.5:443 asked=a.b.example.com", "tunnel", "flag:1"},
		{"longer CIDR", via("10.0.0.0/8:443", "10.1.0.0/16:443 via tunnel"), "10.1.0.1:443", "tunnel", "flag:2"},
		{"name over CIDR", via("203.0.113.0/24:443", "a.example via tunnel"), "203.0.113.5:443 asked=a.example claim=a.example", "tunnel", "flag:2"},
		{"address over name", via("203.0.113.5:443", "a.example via tunnel"), "203.0.113.5:443 asked=a.example claim=a.example", "direct", "flag:1"},
		{"CIDR over group", via("@private:443", "10.0.0.0/8:443 via tunnel"), "10.1.0.1:443", "tunnel", "flag:2"},
		{"@public over @any", via("@any:443", "@public:443 via tunnel"), "203.0.113.5:443", "tunnel", "flag:2"},
		{"same address, other port", via("10.0.0.1:80", "10.0.0.1:443 via tunnel"), "10.0.0.1:443", "tunnel", "flag:2"},
		{"same address, other protocol", via("10.0.0.1:80/udp", "10.0.0.1:80/tcp via tunnel"), "10.0.0.1:80", "tunnel", "flag:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := rules(t, c.rules...).Decide(flow(t, c.flow)); d.Verdict != Allow || d.Route != c.route || d.Rule != c.rule {
				t.Errorf("%+v, want %s by %s", d, c.route, c.rule)
			}
		})
	}
	for _, tie := range [][]string{
		{"a.example", "a.example via tunnel"},
		{"a.example:80", "a.example:443 via tunnel"}, // one name, one question
		{"*.example.com via tunnel:a", "*.example.com via tunnel:b"},
		{"10.0.0.1:443", "10.0.0.1:1-500 via tunnel"},
		{"@public:443", "@public:* via tunnel"},
	} {
		_, err := New(Config{Allow: tie})
		if e, ok := err.(*Error); !ok || e.Line != 2 || e.File != FlagFile {
			t.Errorf("New(%q) = %v, want an error in flag:2", tie, err)
		}
	}
	if _, err := New(Config{Allow: []string{"a.example:80", "a.example:443 via direct"}}); err != nil {
		t.Errorf("the same route twice: %v", err)
	}
}

// TestRouteHoldsStill: what was dialled on one route is not excused by a rule of another.
func TestRouteHoldsStill(t *testing.T) {
	p := rules(t, "@public:*", "a.example via tunnel")
	early := p.Decide(flow(t, "203.0.113.5:443 asked=a.example early"))
	if early.Route != "tunnel" || early.Settled {
		t.Fatalf("address stage: %+v", early)
	}
	if d := p.Decide(flow(t, "203.0.113.5:443 asked=a.example claim=b.example")); d.Verdict != Deny || d.Reason != ReasonNameMismatch {
		t.Fatalf("claim of another name: %+v", d)
	}
	if got := p.Routes(); len(got) != 2 || got[0] != "direct" || got[1] != "tunnel" {
		t.Fatalf("Routes = %q", got)
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := rules(t, "a.example", "*.b.example", "10.0.0.0/8:443", "@public:22", "-*.evil.example", "-192.0.2.0/24")
	for _, f := range []string{
		"203.0.113.5:443 asked=a.example,x.b.example claim=a.example",
		"[64:ff9b:1::10.0.0.1]:443 asked=a.example",
		"10.0.0.1:443 chain=x.example heard=y.example",
		"203.0.113.5:443 claim=a.example",
	} {
		q := flow(t, f)
		if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n != 0 {
			t.Errorf("Decide(%s) allocates %v times", f, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.DecideName("x.y.b.example", 1) }); n != 0 {
		t.Errorf("DecideName allocates %v times", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	words := []string{"-*.evil.example"}
	for i := range 1000 {
		words = append(words, "h"+strings.Repeat("x", i%20)+".d"+string(rune('a'+i%26))+".example:1-9,443")
	}
	p := rules(b, words...)
	q := flow(b, "203.0.113.5:443 asked=hx.db.example claim=hx.db.example")
	for b.Loop() {
		p.Decide(q)
	}
}
