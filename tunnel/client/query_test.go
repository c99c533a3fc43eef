package client

import (
	"context"
	"net"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// TestQuery: which questions are answered, and what becomes of the answers.
func TestQuery(t *testing.T) {
	z := []string{"db.corp.example 10.0.1.50", "db.corp.example fd00::50", "wiki.corp.example =lb.corp.example", "lb.corp.example 10.0.1.61",
		"evil.example 127.0.0.1", "evil.example 10.0.1.99", "meta.example 169.254.169.254", "me.example 192.168.7.2", "mine.example 127.0.0.1"}
	for _, c := range []struct {
		name  string
		rules Rules
		ask   string
		qtype uint16
		want  string // the answers, or the code
	}{
		{"covered", Rules{Allow: []string{"db.corp.example:5432"}}, "db.corp.example", dns.TypeA, "10.0.1.50"},
		{"covered, the other family", Rules{Allow: []string{"db.corp.example:5432"}}, "db.corp.example", dns.TypeAAAA, "fd00::50"},
		{"covered by a wildcard", Rules{Allow: []string{"*.corp.example"}}, "wiki.corp.example", dns.TypeA, "lb.corp.example 10.0.1.61"},
		{"capitals", Rules{Allow: []string{"*.corp.example"}}, "DB.Corp.Example", dns.TypeA, "10.0.1.50"},
		{"not covered", Rules{Allow: []string{"db.corp.example:5432"}}, "wiki.corp.example", dns.TypeA, "NXDOMAIN"},
		{"no list", Rules{}, "db.corp.example", dns.TypeA, "NXDOMAIN"},
		{"addresses cover no name", Rules{Allow: []string{"10.0.0.0/8:*"}}, "db.corp.example", dns.TypeA, "NXDOMAIN"},
		{"a suffix", Rules{Allow: []string{"10.0.0.0/8:*"}, Names: []string{"corp.example"}}, "db.corp.example", dns.TypeA, "10.0.1.50"},
		{"not under the suffix", Rules{Names: []string{"corp.example"}}, "evilcorp.example", dns.TypeA, "NXDOMAIN"},
		{"all", Rules{AllNames: true}, "lb.corp.example", dns.TypeA, "10.0.1.61"},
		{"a reverse name", Rules{Allow: []string{"*.corp.example"}}, "50.1.0.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		{"denied, although all", Rules{AllNames: true, Deny: []string{"*.corp.example"}}, "lb.corp.example", dns.TypeA, "NXDOMAIN"},
		{"everything about a name", Rules{AllNames: true}, "db.corp.example", dns.TypeANY, "REFUSED"},
		{"a zone", Rules{AllNames: true}, "corp.example", dns.TypeAXFR, "REFUSED"},
		{"a zone, the newer way", Rules{AllNames: true}, "corp.example", dns.TypeIXFR, "REFUSED"},
		{"loopback is taken out", Rules{AllNames: true}, "evil.example", dns.TypeA, "10.0.1.99"},
		{"loopback is taken out of hints", Rules{AllNames: true}, "evil.example", dns.TypeHTTPS, "HTTPS HTTPS"},
		{"metadata is taken out", Rules{AllNames: true}, "meta.example", dns.TypeA, "NOERROR"},
		{"the machine itself is taken out", Rules{AllNames: true}, "me.example", dns.TypeA, "NOERROR"},
		{"loopback that is open stays", Rules{AllNames: true, Loopback: []uint16{5432}}, "mine.example", dns.TypeA, "127.0.0.1"},
		{"a name that does not exist", Rules{AllNames: true}, "none.example", dns.TypeA, "NXDOMAIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, c.rules, names(z...))
			r := m.ask(t, c.ask, c.qtype)
			got := ""
			for _, rr := range r.Answer {
				if got != "" {
					got += " "
				}
				got += short(rr)
				if h, ok := rr.(*dns.HTTPS); ok && len(h.Value) > 0 {
					if ip := h.Value[0].(*dns.SVCBIPv4Hint).Hint[0]; ip.IsLoopback() {
						t.Errorf("a hint leads to %s", ip)
					}
				}
			}
			if got == "" {
				got = dns.RcodeToString[r.Rcode]
			}
			if got != c.want {
				t.Errorf("%s %s: %s, want %s", c.ask, dns.TypeToString[c.qtype], got, c.want)
			}
			told := of[*event.DNSQuery](m.log)
			if len(told) != 1 || told[0].RCode != dns.RcodeToString[r.Rcode] || told[0].QType != dns.TypeToString[c.qtype] || told[0].Route != "tunnel" {
				t.Errorf("told: %+v", told)
			}
		})
	}
}

// TestQueryIsMadeAnew: nothing of the edge's message but the question and its flags reaches the user's resolver, and the
// answer is to the message that was sent.
func TestQueryIsMadeAnew(t *testing.T) {
	m := newMachine(t, Rules{AllNames: true}, names("db.example 10.0.1.50"))
	q := new(dns.Msg).SetQuestion("dB.ExAmPle.", dns.TypeA)
	q.Id, q.CheckingDisabled = 7, true
	q.SetEdns0(1232, true)
	q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)})
	q.Extra = append(q.Extra, &dns.TXT{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"x"}})
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Query(context.Background(), tunnel.Query{Message: wire})
	if err != nil {
		t.Fatal(err)
	}
	sent := m.names.last
	if sent.Question[0].Name != "db.example." {
		t.Errorf("the resolver was asked for %s: case is a way to write", sent.Question[0].Name)
	}
	if edns := sent.IsEdns0(); len(sent.Extra) != 1 || edns == nil || len(edns.Option) != 0 || !edns.Do() || !sent.CheckingDisabled {
		t.Errorf("the resolver was asked %v", sent)
	}
	r := new(dns.Msg)
	if err := r.Unpack(got); err != nil || r.Id != 7 || !r.Response || len(r.IsEdns0().Option) != 0 || !r.IsEdns0().Do() {
		t.Errorf("answer %v, %v", r, err)
	}
}

// TestBadQueries: what is no question is no answer.
func TestBadQueries(t *testing.T) {
	m := newMachine(t, Rules{AllNames: true}, names("db.example 10.0.1.50"))
	two := new(dns.Msg).SetQuestion("db.example.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	response := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("db.example.", dns.TypeA))
	for _, c := range []*dns.Msg{two, response, new(dns.Msg)} {
		wire, err := c.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Query(context.Background(), tunnel.Query{Message: wire}); tunnel.CodeOf(err) != tunnel.Malformed {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, wire := range [][]byte{nil, make([]byte, 11), make([]byte, 65535)} {
		if _, err := m.Query(context.Background(), tunnel.Query{Message: wire}); tunnel.CodeOf(err) != tunnel.Malformed {
			t.Errorf("%d octets: %v", len(wire), err)
		}
	}
	chaos := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg).SetUpdate("db.example.")
	for _, c := range []*dns.Msg{chaos, update} {
		wire, err := c.Pack()
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Query(context.Background(), tunnel.Query{Message: wire})
		if r := new(dns.Msg); err != nil || r.Unpack(got) != nil || r.Rcode != dns.RcodeRefused {
			t.Errorf("%v: %v, %v", c, r, err)
		}
	}
	if m.names.count() != 0 {
		t.Errorf("%d questions were passed on", m.names.count())
	}
}

// FuzzQuery: no message from the edge breaks the handler, or gets a guarded address out of it.
func FuzzQuery(f *testing.F) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeANY, dns.TypeTXT} {
		q := new(dns.Msg).SetQuestion("db.example.", qtype)
		q.SetEdns0(4096, true)
		wire, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	m := newMachine(f, Rules{AllNames: true}, names("db.example 127.0.0.1", "db.example 10.0.1.50"), func(h *HandlerConfig) { h.Limits.QueriesPerSecond = 1 << 30 })
	f.Fuzz(func(t *testing.T, wire []byte) {
		got, err := m.Query(context.Background(), tunnel.Query{Message: wire})
		if err != nil {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(got); err != nil {
			t.Fatalf("an answer that cannot be read: %v", err)
		}
		for _, rr := range r.Answer {
			for _, a := range addresses(rr) {
				if a.IsLoopback() {
					t.Fatalf("the answer has %s", a)
				}
			}
		}
	})
}
