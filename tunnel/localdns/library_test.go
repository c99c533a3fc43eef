package localdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/internal/testdns"
)

// TestLibrary: a system whose library knows addresses only, and its nameservers the rest.
func TestLibrary(t *testing.T) {
	known := map[string][]string{
		"ip4 both.example.": {"192.0.2.1", "192.0.2.2"}, "ip6 both.example.": {"2001:db8::1"},
		"ip4 four.example.": {"192.0.2.4"}, "ip6 link.example.": {"fe80::1%en0"},
	}
	asked := 0
	lookup := func(_ context.Context, network, name string) ([]netip.Addr, error) {
		asked++
		if name == "broken.example." {
			return nil, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
		}
		texts, ok := known[network+" "+name]
		if !ok {
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}
		var addrs []netip.Addr
		for _, text := range texts {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		return addrs, nil
	}
	zone := testdns.Zone{
		"empty.example. A": {}, "hidden.example. A": {"hidden.example. 5 A 192.0.2.9"},
		"_db._tcp.example. SRV":         {"_db._tcp.example. 60 SRV 0 0 5432 both.example."},
		"4.2.0.192.in-addr.arpa. PTR":   {"4.2.0.192.in-addr.arpa. 60 PTR four.example."},
		`my\ printer.example. A`:        {`my\ printer.example. 60 A 192.0.2.13`},
		"second.example. TXT":           {`second.example. 60 TXT "of the second network"`},
		"both.example. A":               {"both.example. 60 A 203.0.113.66"},
		"silent-negative.example. AAAA": {},
	}
	_, port := testdns.Serve(t, "127.0.0.1", 0, zone.Answers())
	l := &library{lookup: lookup, client: &stub.Client{}, servers: func(_ context.Context, name string) ([]stub.Conf, error) {
		if name == "nowhere.example" {
			return nil, nil
		}
		if name == "failing.example" {
			return nil, errors.New("no configuration")
		}
		here := stub.Conf{Servers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}, Timeout: time.Second, Attempts: 1}
		closed := here
		closed.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.77:1")}
		return []stub.Conf{closed, here}, nil
	}}
	for _, c := range []struct {
		name  string
		q     string
		qtype uint16
		rcode int
		want  []string
		fails bool
	}{
		{name: "the library's word, not the nameserver's", q: "both.example", qtype: dns.TypeA, want: []string{"192.0.2.1", "192.0.2.2"}},
		{name: "AAAA", q: "both.example", qtype: dns.TypeAAAA, want: []string{"2001:db8::1"}},
		{name: "a zone is of this machine", q: "link.example", qtype: dns.TypeAAAA, want: []string{"fe80::1"}},
		{name: "no data: the other family has some", q: "four.example", qtype: dns.TypeAAAA},
		{name: "no data: the nameserver knows", q: "empty.example", qtype: dns.TypeA},
		{name: "no such name", q: "none.example", qtype: dns.TypeA, rcode: dns.RcodeNameError},
		{name: "hidden by the system", q: "hidden.example", qtype: dns.TypeA},
		{name: "a negative that nobody confirms", q: "nowhere.example", qtype: dns.TypeA},
		{name: "another one", q: "failing.example", qtype: dns.TypeAAAA},
		{name: "the library fails", q: "broken.example", qtype: dns.TypeA, fails: true},
		{name: "SRV", q: "_db._tcp.example", qtype: dns.TypeSRV, want: []string{"0 0 5432 both.example."}},
		{name: "PTR", q: "4.2.0.192.in-addr.arpa", qtype: dns.TypePTR, want: []string{"four.example."}},
		{name: "no name of a host", q: `my\ printer.example`, qtype: dns.TypeA, want: []string{"192.0.2.13"}},
		{name: "the second network knows", q: "second.example", qtype: dns.TypeTXT, want: []string{`"of the second network"`}},
		{name: "no nameserver", q: "nowhere.example", qtype: dns.TypeTXT, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := l.exchange(t.Context(), testdns.Question(c.q, c.qtype, 0))
			if err != nil || c.fails {
				if (err != nil) != c.fails {
					t.Fatal(err)
				}
				return
			}
			if r.Rcode != c.rcode || !slices.Equal(testdns.Data(r), c.want) {
				t.Errorf("%v", r)
			}
			for _, rr := range r.Answer {
				if c.qtype == dns.TypeA && c.q == "both.example" && rr.Header().Ttl != libraryTTL {
					t.Errorf("TTL %d", rr.Header().Ttl)
				}
			}
		})
	}
}
