package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

var google = netip.MustParseAddrPort("8.8.8.8:53")

// watched is a flow under Watch with both ends in the test's hands.
type watched struct {
	client, server net.Conn
	done           chan struct{}
	up, down       int64
	err            error
}

func startWatch(t *testing.T, s *Server, network string) *watched {
	t.Helper()
	return startWatchTo(t, s, Explicit{Network: network, Server: google, Route: "direct"})
}

func startWatchTo(t *testing.T, s *Server, to Explicit) *watched {
	t.Helper()
	client, inner := net.Pipe()
	outer, server := net.Pipe()
	w := &watched{client: client, server: server, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.up, w.down, w.err = s.Watch(t.Context(), to, inner, outer)
		inner.Close()
		outer.Close()
	}()
	return w
}

func (w *watched) end() error {
	w.client.Close()
	w.server.Close()
	<-w.done
	return w.err
}

// receive reads what comes in one piece within a second of the bubble's clock; nil is nothing.
func receive(c net.Conn) []byte {
	buf := make([]byte, dns.MaxMsgSize+2)
	c.SetReadDeadline(time.Now().Add(time.Second))
	defer c.SetReadDeadline(time.Time{})
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

func TestWatchUDP(t *testing.T) {
	ask := func(name string, qtype uint16) []byte { return packed(t, testdns.Question(name, qtype, 1232)) }
	trailing := append(ask("api.test", dns.TypeA), "secret"...)
	for _, c := range []struct {
		name   string
		audit  bool
		sent   []byte
		passes bool
		rcode  string // of what is answered or recorded
		ends   error
		want   Query
	}{
		{name: "an allowed question", sent: ask("API.test", dns.TypeA), passes: true, want: Query{Hostname: "api.test", Qtype: "A", Rcode: "NOERROR", Answers: []string{"192.0.2.1"}, Verdict: "allow", Rule: "flag:1"}},
		{name: "a blocked question", sent: ask("blocked.test", dns.TypeA), want: Query{Hostname: "blocked.test", Qtype: "A", Rcode: "NXDOMAIN", Verdict: "deny", Rule: "builtin:default", Reason: "dns-blocked"}},
		{name: "a blocked question in audit", audit: true, sent: ask("blocked.test", dns.TypeA), passes: true, want: Query{Hostname: "blocked.test", Qtype: "A", Rcode: "NOERROR", Answers: []string{"192.0.2.10"}, Verdict: "would-deny", Rule: "builtin:default", Reason: "dns-blocked"}},
		{name: "discovery of other resolvers", sent: ask("_dns.resolver.arpa", dns.TypeSVCB), want: Query{Hostname: "_dns.resolver.arpa", Qtype: "SVCB", Rcode: "NXDOMAIN", Verdict: "deny", Rule: "builtin:resolver-discovery", Reason: "encrypted-dns"}},
		{name: "a denied chain member passes and is heard", sent: ask("cloaked.example", dns.TypeA), passes: true, want: Query{Hostname: "cloaked.example", Qtype: "A", Rcode: "NOERROR", Answers: []string{"x.evil.test.", "192.0.2.3"}, Verdict: "allow", Rule: "flag:1"}},
		{name: "an odd name", sent: ask(`a\ b.example`, dns.TypeA), want: Query{Hostname: `a\ b.example`, Qtype: "A", Rcode: "NXDOMAIN", Verdict: "deny", Rule: "builtin:name", Reason: "malformed"}},
		{name: "no dns", sent: []byte("hello"), ends: ErrNotDNS, want: Query{Verdict: "deny", Rule: "builtin:dns", Reason: "malformed"}},
		{name: "no dns in audit", audit: true, sent: []byte("hello"), passes: true, want: Query{Verdict: "would-deny", Rule: "builtin:dns", Reason: "malformed"}},
		{name: "octets after the question", sent: trailing, ends: ErrNotDNS, want: Query{Verdict: "deny", Rule: "builtin:dns", Reason: "malformed"}},
		{name: "octets after the question in audit", audit: true, sent: trailing, passes: true, want: Query{Verdict: "would-deny", Rule: "builtin:dns", Reason: "malformed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, rec := enforcing(nil)
				if c.audit {
					s, rec = auditing(nil)
				}
				w := startWatch(t, s, "udp")
				w.client.Write(c.sent)
				synctest.Wait()
				var down []byte
				if c.passes {
					got := receive(w.server)
					if !bytes.Equal(got, c.sent) {
						t.Fatalf("server got %x, sent %x", got, c.sent)
					}
					down = []byte("not dns either")
					if q, ok := inspect(got); ok {
						r, _ := world.Exchange(t.Context(), q)
						down = packed(t, r)
					}
					go w.server.Write(down)
				}
				switch got := receive(w.client); {
				case c.passes && !bytes.Equal(got, down):
					t.Errorf("client got %x, server sent %x", got, down)
				case !c.passes && c.ends == nil:
					r := unpacked(t, got)
					if r.Rcode != dns.RcodeNameError || r.Id != binary.BigEndian.Uint16(c.sent) || r.IsEdns0().Option[0].(*dns.EDNS0_EDE).InfoCode != 15 {
						t.Errorf("client got %v", r)
					}
					if got := receive(w.server); got != nil {
						t.Errorf("server got %x", got)
					}
				case c.ends != nil && got != nil:
					t.Errorf("client got %x", got)
				}
				if err := w.end(); !errors.Is(err, c.ends) {
					t.Errorf("ended with %v", err)
				}
				up := 0
				if c.passes {
					up = len(c.sent)
				}
				if w.up != int64(up) || w.down != int64(len(down)) {
					t.Errorf("counted %d up, %d down", w.up, w.down)
				}
				all := rec.list()
				if len(all) != 1 {
					t.Fatalf("recorded %+v", all)
				}
				c.want.Server, c.want.Route, c.want.Duration = "8.8.8.8:53", "direct", all[0].Duration
				if !slices.Equal(all[0].Answers, c.want.Answers) {
					t.Errorf("answers %q", all[0].Answers)
				}
				all[0].Answers, c.want.Answers = nil, nil
				if got := all[0]; got.Hostname != c.want.Hostname || got.Verdict != c.want.Verdict || got.Rule != c.want.Rule ||
					got.Reason != c.want.Reason || got.Rcode != c.want.Rcode || got.Qtype != c.want.Qtype || got.Server != c.want.Server {
					t.Errorf("recorded %+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// TestWatchHears: what an explicit server says speaks against, never for.
func TestWatchHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := enforcing(nil)
		w := startWatch(t, s, "udp")
		answer := func(name string, asked bool) {
			q := testdns.Question(name, dns.TypeA, 0)
			if asked {
				w.client.Write(packed(t, q))
				receive(w.server)
			}
			r, _ := world.Exchange(t.Context(), q)
			w.server.Write(packed(t, r))
			receive(w.client)
		}
		answer("cloaked.example", true)
		answer("www.example", false)
		asked, chain, heard := s.Memory.Recall("direct", netip.MustParseAddr("192.0.2.3"))
		if asked != nil || chain != nil || !slices.Equal(heard, []string{"cloaked.example", "x.evil.test"}) {
			t.Errorf("asked %v chain %v heard %v", asked, chain, heard)
		}
		if _, _, heard := s.Memory.Recall("direct", netip.MustParseAddr("192.0.2.2")); heard != nil {
			t.Errorf("heard what nobody asked: %v", heard)
		}
		w.end()
	})
}

func TestWatchRecordsTheUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := enforcing(nil)
		w := startWatch(t, s, "udp")
		go io.Copy(io.Discard, w.server)
		for i := range maxPending + 1 {
			q := testdns.Question("api.test", dns.TypeA, 0)
			q.Id = uint16(i)
			w.client.Write(packed(t, q))
		}
		synctest.Wait()
		if n := len(rec.list()); n != 1 {
			t.Errorf("%d recorded beyond the bound", n)
		}
		w.end()
		all := rec.list()
		if len(all) != maxPending+1 || all[0].Rcode != "" || all[0].Verdict != "allow" {
			t.Errorf("%d recorded, the first %+v", len(all), all[0])
		}
	})
}

func TestWatchUDPIsIdle(t *testing.T) {
	for _, c := range []struct {
		name     string
		answered bool
		want     time.Duration
	}{{"before an answer", false, watchUnanswered}, {"after one", true, watchIdle}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := enforcing(nil)
				w := startWatch(t, s, "udp")
				go io.Copy(io.Discard, w.client)
				go io.Copy(io.Discard, w.server)
				for range 3 {
					time.Sleep(watchUnanswered - 1)
					w.client.Write(packed(t, testdns.Question("api.test", dns.TypeA, 0)))
				}
				if c.answered {
					w.server.Write([]byte("x"))
				}
				start := time.Now()
				<-w.done
				if !errors.Is(w.err, os.ErrDeadlineExceeded) || time.Since(start) != c.want {
					t.Errorf("after %v: %v", time.Since(start), w.err)
				}
				w.end()
			})
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := enforcing(nil)
			_, inner := net.Pipe()
			outer, _ := net.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				_, _, err := s.Watch(ctx, Explicit{Network: network, Server: google, Route: "direct"}, inner, outer)
				done <- err
			}()
			synctest.Wait()
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", network, err)
			}
		})
	}
}

func TestInspect(t *testing.T) {
	good := packed(t, testdns.Question("api.test", dns.TypeA, 1232))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	axfr := testdns.Question("api.test", dns.TypeIXFR, 0)
	axfr.Ns = []dns.RR{testdns.Record("api.test. 0 SOA a. b. 1 2 3 4 5")}
	soa := testdns.Question("api.test", dns.TypeA, 0)
	soa.Ns = axfr.Ns
	for _, c := range []struct {
		name string
		raw  []byte
		want bool
	}{
		{"a question", good, true},
		{"IXFR with its SOA", packed(t, axfr), true},
		{"another with an SOA", packed(t, soa), false},
		{"one octet more", append(bytes.Clone(good), 0), false},
		{"one octet less", good[:len(good)-1], false},
		{"an answer", change(2, 0x81), false},
		{"an update", change(2, 0x28), false},
		{"two questions", change(5, 2), false},
		{"an answer record", change(7, 1), false},
		{"a pointer in the name", change(12, 0xc0), false},
		{"a name that is a pointer into the header", []byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 4, 0, 1, 0, 1}, false},
		{"an extended label", change(12, 0x41), false},
		{"more records than there are", change(11, 2), false},
		{"empty", nil, false},
	} {
		if _, ok := inspect(c.raw); ok != c.want {
			t.Errorf("%s: %v", c.name, ok)
		}
	}
}
