package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

// TestTruncation: never more octets than the client takes, TC and whole records in what is left, all of it over TCP.
func TestTruncation(t *testing.T) {
	big := zone{}
	for i := range 200 {
		big["big.example. A"] = append(big["big.example. A"], fmt.Sprintf("big.example. 60 A 192.0.2.%d", i))
	}
	for _, size := range []uint16{0, 100, 512, 1232, 4096, 65535} {
		s, _ := enforcing(big)
		raw := s.handle(t.Context(), packed(t, testdns.Question("big.example", dns.TypeA, size)), "", 0)
		r := unpacked(t, raw)
		room := min(max(int(size), 512), MaxUDP)
		if len(raw) > room || len(r.Answer) == 0 || r.Truncated != (len(r.Answer) < 200) {
			t.Errorf("size %d: %d octets, %d answers, TC %v", size, len(raw), len(r.Answer), r.Truncated)
		}
		if (size == 0) != (r.IsEdns0() == nil) {
			t.Errorf("size %d: OPT %v", size, r.IsEdns0())
		}
		if n := len(askedFor(s.Memory, netip.MustParseAddr("192.0.2.199"))); n != 1 {
			t.Errorf("size %d: what was cut off is not evidence, but TCP will bring it", size)
		}
	}
	s, _ := enforcing(big)
	if r := unpacked(t, s.handle(t.Context(), packed(t, testdns.Question("big.example", dns.TypeA, 0)), "", dns.MaxMsgSize)); len(r.Answer) != 200 || r.Truncated {
		t.Errorf("TCP: %d answers", len(r.Answer))
	}
}

// TestStubs feeds the messages of two C libraries, octet by octet as they send them, and looks at what they look at.
func TestStubs(t *testing.T) {
	name := "\x03api\x04test\x00"
	for _, c := range []struct {
		name, raw string
		edns, ad  bool
		answers   int
	}{
		{"musl A: RD only, no EDNS", "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01", false, false, 1},
		{"musl AAAA from the same socket, next ID", "\x12\x35\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x1c\x00\x01", false, false, 1},
		{"musl with AD (1.2.0 and later)", "\x12\x36\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01", false, true, 1},
		{"glibc A", "\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01", false, false, 1},
		{"glibc AAAA", "\xab\xce\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x1c\x00\x01", false, false, 1},
		{"glibc with edns0: 1200 octets", "\xab\xcf\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01" + name + "\x00\x01\x00\x01" + "\x00\x00\x29\x04\xb0\x00\x00\x00\x00\x00\x00", true, false, 1},
		{"glibc with trust-ad", "\xab\xd0\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01" + name + "\x00\x01\x00\x01" + "\x00\x00\x29\x04\xb0\x00\x00\x00\x00\x00\x00", true, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := &spy{Upstream: world}
			s, _ := enforcing(up)
			r := unpacked(t, s.handle(t.Context(), []byte(c.raw), "", 0))
			if r.Id != uint16(c.raw[0])<<8|uint16(c.raw[1]) || len(r.Answer) != c.answers || (r.IsEdns0() != nil) != c.edns || !r.RecursionDesired || r.Truncated {
				t.Errorf("answer %v", r)
			}
			if up.got[0].AuthenticatedData != c.ad {
				t.Errorf("AD did not go along: %v", up.got[0])
			}
		})
	}
}

// TestMuslSearches: musl goes on to the next search domain on NXDOMAIN only, and gives a name up on REFUSED.
func TestMuslSearches(t *testing.T) {
	s, _ := enforcing(world)
	for _, name := range []string{"api.test.corp.test", "api.corp.test"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if r := send(t, s, testdns.Question(name, qtype, 0)); r.Rcode != dns.RcodeNameError {
				t.Errorf("%s %s: %s", name, typeName(qtype), rcodeName(r.Rcode))
			}
		}
	}
}

func TestInFlightIsBounded(t *testing.T) {
	stuck := make(chan struct{})
	s, rec := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		if q.Question[0].Name == "stuck.example." {
			stuck <- struct{}{}
			<-stuck
		}
		return world.Exchange(ctx, q)
	}))
	s.MaxInFlight = 1
	done := make(chan *dns.Msg)
	go func() { done <- send(t, s, testdns.Question("stuck.example", dns.TypeA, 0)) }()
	<-stuck
	if r := send(t, s, testdns.Question("api.test", dns.TypeA, 0)); r.Rcode != dns.RcodeServerFailure || s.Counters()["limited"] != 1 {
		t.Errorf("beyond the bound: %v", r)
	}
	if got := rec.list(); len(got) != 1 || got[0].Reason != "limit" || got[0].Verdict != "deny" {
		t.Errorf("recorded %+v", got)
	}
	stuck <- struct{}{}
	<-done
	if r := send(t, s, testdns.Question("api.test", dns.TypeA, 0)); r.Rcode != dns.RcodeSuccess {
		t.Errorf("after it: %v", r)
	}
}

type upstreamFunc func(context.Context, *dns.Msg) (*dns.Msg, error)

func (f upstreamFunc) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) { return f(ctx, q) }

func TestAnswersOfIsBounded(t *testing.T) {
	m := new(dns.Msg)
	for range 100 {
		m.Answer = append(m.Answer, testdns.Record("a.example. 60 TXT "+strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 5)))
	}
	got := answersOf(m)
	if len(got) != maxAnswers || slices.ContainsFunc(got, func(s string) bool { return len(s) > maxAnswerLen }) {
		t.Fatalf("%d answers", len(got))
	}
}
