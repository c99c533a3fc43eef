package client

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// TestJudge is the table of what an edge may try, and of what the user means to let it.
func TestJudge(t *testing.T) {
	db := []string{"staging-db.internal.example.com:5432", "*.corp.example:443"}
	for _, c := range []struct {
		name  string
		allow []string
		open  string
		want  string // verdict, and the reason of a denial
	}{
		{"no list", nil, "10.0.1.50:5432 staging-db.internal.example.com", "deny default"},
		{"the name's own address", db, "10.0.1.50:5432 staging-db.internal.example.com", "allow"},
		{"a private address under a wildcard", db, "10.0.1.60:443 wiki.corp.example", "allow"},
		{"by way of an alias", db, "10.0.1.61:443 www.corp.example", "allow"},
		{"another port", db, "10.0.1.50:22 staging-db.internal.example.com", "deny default"},
		{"udp as well", db, "10.0.1.50:5432 udp staging-db.internal.example.com", "allow"},
		{"tcp only", []string{"staging-db.internal.example.com:5432/tcp"}, "10.0.1.50:5432 udp staging-db.internal.example.com", "deny default"},

		{"the edge lies about the name", db, "10.0.1.51:5432 staging-db.internal.example.com", "deny no-evidence"},
		{"... for udp", db, "10.0.1.51:5432 udp staging-db.internal.example.com", "deny no-evidence"},
		{"... among many", db, "10.0.1.51:5432 a.example b.example staging-db.internal.example.com", "deny no-evidence"},
		{"... with a name nobody knows", db, "10.0.1.51:443 none.corp.example", "deny no-evidence"},
		{"... with another family", db, "[fd00::50]:5432 staging-db.internal.example.com", "deny no-evidence"},
		{"... with the alias for the name", []string{"lb.cdn.example:443"}, "10.0.1.61:443 www.corp.example", "deny default"},
		{"the name in capitals", db, "10.0.1.50:5432 STAGING-DB.internal.example.COM.", "allow"},
		{"the address as a name", db, "10.0.1.51:5432 10.0.1.51", "deny default"},
		{"a decimal number as a name", []string{"127.0.0.1:5432"}, "10.0.1.51:5432 2130706433", "deny default"},
		{"no name", db, "10.0.1.50:5432", "deny default"},
		{"an empty name", db, "10.0.1.50:5432 .", "deny default"},

		{"loopback", []string{"@any:*", "0.0.0.0/0:*"}, "127.0.0.1:5432", "deny guard"},
		{"loopback by a name", []string{"evil.example:5432"}, "127.0.0.1:5432 evil.example", "deny guard"},
		{"localhost", []string{"@any:*"}, "127.0.0.1:5432 localhost", "deny guard"},
		{"the whole of loopback", []string{"@any:*"}, "127.99.3.2:80", "deny guard"},
		{"loopback, IPv6", []string{"@any:*", "[::/0]:*"}, "[::1]:5432", "deny guard"},
		{"mapped", []string{"@any:*"}, "[::ffff:127.0.0.1]:5432", "deny guard"},
		{"compatible", []string{"@any:*"}, "[::127.0.0.1]:5432", "deny guard"},
		{"NAT64", []string{"@any:*"}, "[64:ff9b::127.0.0.1]:5432", "deny guard"},
		{"6to4", []string{"@any:*"}, "[2002:7f00:1::1]:5432", "deny guard"},
		{"unspecified", []string{"@any:*"}, "0.0.0.0:5432", "deny guard"},
		{"unspecified, all of it", []string{"@any:*"}, "0.1.2.3:5432", "deny guard"},
		{"unspecified, IPv6", []string{"@any:*"}, "[::]:5432", "deny guard"},
		{"link-local", []string{"@any:*"}, "169.254.7.7:80", "deny guard"},
		{"link-local, IPv6", []string{"@any:*"}, "[fe80::1]:80", "deny guard"},
		{"metadata", []string{"@any:*", "@metadata:80", "169.254.0.0/16:80"}, "169.254.169.254:80", "deny guard"},
		{"metadata, IPv6", []string{"@any:*"}, "[fd00:ec2::254]:80", "deny guard"},
		{"metadata by NAT64", []string{"@any:*"}, "[64:ff9b::169.254.169.254]:80", "deny guard"},
		{"metadata by a name", []string{"metadata.example:80"}, "169.254.169.254:80 metadata.example", "deny guard"},
		{"multicast", []string{"@any:*"}, "224.0.0.251:5353 udp", "deny guard"},
		{"broadcast", []string{"@any:*"}, "255.255.255.255:67 udp", "deny guard"},
		{"the machine itself", []string{"@any:*", "@private:*", "192.168.7.0/24:*"}, "192.168.7.2:22", "deny guard"},
		{"a bridge's gateway", []string{"@any:*", "@private:*"}, "172.17.0.1:2375", "deny guard"},
		{"the edge", []string{"@any:*"}, "198.51.100.7:443", "deny guard"},
		{"loopback for udp", []string{"@any:*"}, "127.0.0.1:53 udp", "deny guard"},

		{"loopback, said", []string{"127.0.0.1:5432"}, "127.0.0.1:5432", "allow"},
		{"loopback, said for another port", []string{"127.0.0.1:5432"}, "127.0.0.1:5433", "deny guard"},
		{"loopback, said, in clothes", []string{"127.0.0.1:5432"}, "[::ffff:127.0.0.1]:5432", "allow"},
		{"loopback, said, and its name", []string{"127.0.0.1:5432"}, "127.0.0.1:5432 mine.example", "allow"},
		{"a part of loopback", []string{"127.0.0.8/29:5432"}, "127.0.0.9:5432", "allow"},
		{"the machine itself, said", []string{"192.168.7.2:22"}, "192.168.7.2:22", "allow"},
		{"the edge, said", []string{"198.51.100.7:5432"}, "198.51.100.7:5432", "allow"},
		{"metadata, said", []string{"169.254.169.254:80"}, "169.254.169.254:80", "allow"},
		{"a private network", []string{"10.1.0.0/16:443/tcp"}, "10.1.2.3:443", "allow"},
		{"a private network, another one", []string{"10.1.0.0/16:443/tcp"}, "10.2.2.3:443", "deny default"},
		{"only what is public", []string{"@public:443"}, "10.2.2.3:443", "deny private"},
		{"DNS over TLS past the list", []string{"@public:*"}, "192.0.2.7:853", "deny encrypted-dns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, Rules{Allow: c.allow}, names("staging-db.internal.example.com 10.0.1.50", "wiki.corp.example 10.0.1.60",
				"www.corp.example =lb.cdn.example", "lb.cdn.example 10.0.1.61", "evil.example 127.0.0.1", "metadata.example 169.254.169.254", "localhost 127.0.0.1"))
			f := m.judged(c.open)
			got := f.verdict.String()
			if f.reason != "" {
				got += " " + f.reason
			}
			if got != c.want && !(c.want == "deny default" && got == "deny private") && !(c.want == "deny default" && got == "deny port") {
				t.Errorf("%s under %q: %s (%s), want %s", c.open, c.allow, got, f.rule, c.want)
			}
			if f.verdict == 0 { // a Dial must not get further than the judgement
				if _, err := m.Dial(context.Background(), opening(c.open)); tunnel.CodeOf(err) != tunnel.Denied {
					t.Errorf("dialling %s: %v", c.open, err)
				}
			}
		})
	}
}

// TestOwnAddressesOfTheMoment: an address that became the machine's own a moment ago, or that its kernel takes for itself
// without any interface that has it, is guarded like the others, also when it becomes one between the judgement and the dial.
func TestOwnAddressesOfTheMoment(t *testing.T) {
	at := netip.MustParseAddr("10.8.0.5")
	mine := false
	m := newMachine(t, Rules{Allow: []string{"10.8.0.0/16:*"}}, nil)
	m.here = func(a netip.Addr) bool { return mine && a == at }
	o := opening("10.8.0.5:22")
	before := m.judge(t.Context(), o)
	if before.verdict.String() != "allow" {
		t.Fatalf("of another machine: %s %s", before.verdict, before.reason)
	}
	mine = true
	if err := m.recheck(o, before, o.Addr); tunnel.CodeOf(err) != tunnel.Denied {
		t.Errorf("as it is dialled: %v", err)
	}
	if f := m.judged("10.8.0.5:22 udp"); f.verdict.String() != "deny" || f.reason != "guard" {
		t.Errorf("of this machine: %s %s", f.verdict, f.reason)
	}
	if f := m.judged("10.8.0.6:22"); f.verdict.String() != "allow" {
		t.Errorf("its neighbour: %s %s", f.verdict, f.reason)
	}
	mine = false
	if f := m.judged("10.8.0.5:22"); f.verdict.String() != "allow" {
		t.Errorf("when it is another machine's again: %s %s", f.verdict, f.reason)
	}
	for i := range 2 * maxFound {
		m.policy.notice(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), true)
	}
	if n := len(*m.policy.found.Load()); n != maxFound {
		t.Errorf("%d addresses are kept", n)
	}
}

// TestDeny: a deny wins over every allow, by address and by each name that was ever heard of.
func TestDeny(t *testing.T) {
	rules := Rules{Allow: []string{"10.0.0.0/8:*", "*.example:*"}, Deny: []string{"10.0.1.51", "ads.example", "tracker.example"}}
	z := names("db.example 10.0.1.50", "ads.example 10.0.1.50", "www.example =tracker.example", "tracker.example 10.0.1.70")
	for _, c := range []struct{ open, want string }{
		{"10.0.1.50:5432 db.example", "allow"},
		{"10.0.1.51:5432", "deny"},
		{"[::ffff:10.0.1.51]:5432", "deny"},
		{"10.0.1.50:5432 db.example ads.example", "deny"},
	} {
		m := newMachine(t, rules, z)
		if f := m.judged(c.open); f.verdict.String() != c.want {
			t.Errorf("%s: %s %s", c.open, f.verdict, f.reason)
		}
	}
	m := newMachine(t, rules, z)
	if r := m.ask(t, "www.example", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("an answer over a denied alias: %s", dns.RcodeToString[r.Rcode])
	}
}

// TestRebinding: what a name meant when it was asked for is what it means for ten minutes, and no later answer, and no other
// name, opens another address; what it means now is found out when it has to be.
func TestRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, Rules{Allow: []string{"db.example:5432"}}, names("db.example 10.0.1.50"))
		if r := m.ask(t, "db.example", dns.TypeA); len(r.Answer) != 1 {
			t.Fatalf("answer: %v", r)
		}
		m.names.set("db.example", "127.0.0.1", "10.0.1.99")
		asked := m.names.count()
		check := func(open, want string) {
			t.Helper()
			if f := m.judged(open); f.verdict.String() != want {
				t.Errorf("%s: %s %s, want %s", open, f.verdict, f.reason, want)
			}
		}
		check("10.0.1.50:5432", "allow") // the edge need not even say the name
		if m.names.count() != asked {
			t.Error("what was asked for already was asked for again")
		}
		check("127.0.0.1:5432 db.example", "deny")
		check("10.0.1.98:5432 db.example", "deny")
		check("10.0.1.99:5432 db.example", "allow") // it is what the name means now
		time.Sleep(9 * time.Minute)
		check("10.0.1.50:5432 db.example", "allow")
		time.Sleep(2 * time.Minute)
		check("10.0.1.50:5432 db.example", "deny")
		if r := m.ask(t, "db.example", dns.TypeA); len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != "10.0.1.99" {
			t.Errorf("loopback is among the answers: %v", r.Answer)
		}
	})
}

// TestEvidenceOfOthers: what one sandbox asked for says nothing about another's flows, but costs it a lookup.
func TestEvidenceOfOthers(t *testing.T) {
	m := newMachine(t, Rules{Allow: []string{"db.example:5432"}}, names("db.example 10.0.1.50"))
	m.ask(t, "db.example", dns.TypeA)
	o := opening("10.0.1.50:5432")
	o.Sandbox = "another"
	if f := m.judge(context.Background(), o); f.verdict.String() != "deny" {
		t.Errorf("without a name: %s", f.verdict)
	}
	o.Names = []string{"db.example"}
	if f := m.judge(context.Background(), o); f.verdict.String() != "allow" || m.names.count() != 2 {
		t.Errorf("with the name: %s after %d questions", f.verdict, m.names.count())
	}
}

// TestLookupsAreOfTheList: an edge cannot have names looked up that no rule is about, or without end.
func TestLookupsAreOfTheList(t *testing.T) {
	m := newMachine(t, Rules{Allow: []string{"*.example:5432"}}, names())
	o := opening("10.0.1.50:5432 secret.other secret.exfil.test")
	for range 100 {
		o.Names = append(o.Names, "n"+string(rune('a'+len(o.Names)%26))+".example")
	}
	if f := m.judge(context.Background(), o); f.verdict.String() != "deny" {
		t.Fatal(f.verdict)
	}
	if n := m.names.count(); n != tunnel.MaxNames-2 {
		t.Errorf("%d names were looked up: %q", n, m.names.asked)
	}
}

// TestAudit: everything but guards passes, and is told.
func TestAudit(t *testing.T) {
	m := newMachine(t, Rules{Audit: true}, names("db.example 10.0.1.50"))
	for _, c := range []struct{ open, want string }{
		{"10.0.1.50:5432 db.example", "would-deny"}, {"192.0.2.1:443", "would-deny"}, {"127.0.0.1:22", "deny"}, {"169.254.169.254:80", "deny"}, {"192.168.7.2:22", "deny"},
	} {
		if f := m.judged(c.open); f.verdict.String() != c.want {
			t.Errorf("%s: %s %s, want %s", c.open, f.verdict, f.reason, c.want)
		}
	}
	if r := m.ask(t, "db.example", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("answer: %v", r)
	}
}

// TestRecheck: the socket's own address counts, and what has changed since the judgement.
func TestRecheck(t *testing.T) {
	m := newMachine(t, Rules{Allow: []string{"@private:5432", "203.0.113.9:443"}}, nil)
	o := opening("10.0.1.50:5432")
	f := m.judge(context.Background(), o)
	if err := m.recheck(o, f, o.Addr); err != nil {
		t.Errorf("the same address: %v", err)
	}
	if err := m.recheck(o, f, netip.MustParseAddrPort("10.0.1.51:5432")); err == nil {
		t.Error("another address passed")
	}
	m.policy.SetEdge([]netip.Addr{netip.MustParseAddr("10.0.1.50")})
	if err := m.recheck(o, f, o.Addr); tunnel.CodeOf(err) != tunnel.Denied {
		t.Errorf("an address that is the edge's now: %v", err)
	}
	f.rule = ruleAsked
	if err := m.recheck(o, f, o.Addr); tunnel.CodeOf(err) != tunnel.Denied {
		t.Errorf("... and the user said yes before: %v", err)
	}
}

// TestOnlyDenies: as everywhere in weir, such a list leaves what is public.
func TestOnlyDenies(t *testing.T) {
	m := newMachine(t, Rules{Deny: []string{"203.0.113.0/24"}}, names())
	for _, c := range []struct{ open, want string }{{"192.0.2.1:443", "allow"}, {"203.0.113.1:443", "deny"}, {"10.0.1.50:443", "deny"}, {"127.0.0.1:443", "deny"}} {
		if f := m.judged(c.open); f.verdict.String() != c.want {
			t.Errorf("%s: %s", c.open, f.verdict)
		}
	}
}

// TestNonsense: what is no destination is refused before anything is judged.
func TestNonsense(t *testing.T) {
	m := newMachine(t, Rules{Audit: true}, nil)
	for _, o := range []tunnel.Open{{}, {Network: "tcp"}, {Network: "icmp", Addr: netip.MustParseAddrPort("192.0.2.1:1")},
		{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.1:0")}, {Network: "tcp", Addr: netip.MustParseAddrPort("[fe80::1%lo]:80")}, {Network: "unix"}} {
		_, err := m.Dial(context.Background(), o)
		if tunnel.CodeOf(err) != tunnel.Malformed {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, d := range of[*event.Connect](m.log) {
		if d.Verdict != "deny" {
			t.Errorf("recorded as %s", d.Verdict)
		}
	}
}

// TestDenialSaysLittle: the edge hears a code and a reason, nothing of the list.
func TestDenialSaysLittle(t *testing.T) {
	m := newMachine(t, Rules{Allow: []string{"secret-host.example:5432"}, Deny: []string{"10.0.9.9"}}, names())
	_, err := m.Dial(context.Background(), opening("10.0.9.9:5432"))
	var e *tunnel.Error
	if !errors.As(err, &e) || e.Code != tunnel.Denied || e.Text != "rule: the list of the user's machine does not allow it" {
		t.Errorf("the edge hears %v", err)
	}
	if d := of[*event.Connect](m.log); len(d) != 1 || d[0].Rule != "flag:2" {
		t.Errorf("the user hears %+v", d)
	}
}
