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
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
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
	client, inner := net.Pipe()
	outer, server := net.Pipe()
	w := &watched{client: client, server: server, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.up, w.down, w.err = s.Watch(t.Context(), network, google, inner, outer)
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
	ask := func(name string, qtype uint16) []byte { return packed(t, question(name, qtype, 1232)) }
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
			q := question(name, dns.TypeA, 0)
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
			q := question("api.test", dns.TypeA, 0)
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
					w.client.Write(packed(t, question("api.test", dns.TypeA, 0)))
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
				_, _, err := s.Watch(ctx, network, google, inner, outer)
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

// scripted is a connection that plays chunks, then EOF (or, as the server, waits for the client's end), and keeps what is
// written.
type scripted struct {
	net.Conn
	mu     sync.Mutex
	chunks [][]byte
	out    bytes.Buffer
	wait   chan struct{} // nil: EOF after the chunks at once
	once   sync.Once
}

func (c *scripted) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.chunks) > 0 {
		n := copy(b, c.chunks[0])
		if c.chunks[0] = c.chunks[0][n:]; len(c.chunks[0]) == 0 {
			c.chunks = c.chunks[1:]
		}
		return n, nil
	}
	if c.wait != nil {
		c.mu.Unlock()
		<-c.wait
		c.mu.Lock()
	}
	return 0, io.EOF
}

func (c *scripted) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *scripted) end() {
	c.once.Do(func() {
		if c.wait != nil {
			close(c.wait)
		}
	})
}

func (c *scripted) CloseWrite() error               { c.end(); return nil }
func (c *scripted) SetReadDeadline(time.Time) error { return nil }
func (c *scripted) SetDeadline(time.Time) error     { c.end(); return nil }
func (c *scripted) written() []byte                 { return c.out.Bytes() }

// playTCP runs one stream from the client through Watch in pieces of the given sizes, over and over.
func playTCP(s *Server, stream []byte, sizes ...int) (sent, answered []byte, err error) {
	client, server := &scripted{}, &scripted{wait: make(chan struct{})}
	for i := 0; len(stream) > 0; i++ {
		n := len(stream)
		if len(sizes) > 0 {
			n = min(max(sizes[i%len(sizes)], 1), n)
		}
		client.chunks = append(client.chunks, bytes.Clone(stream[:n]))
		stream = stream[n:]
	}
	_, _, err = s.Watch(context.Background(), "tcp", google, client, server)
	return server.written(), client.written(), err
}

func framed(t testing.TB, names ...string) []byte {
	var b []byte
	for i, n := range names {
		q := question(n, dns.TypeA, 0)
		q.Id = uint16(i)
		b = append(b, frame(packed(t, q))...)
	}
	return b
}

// TestWatchTCPSplits: the same bytes in any segments have the same effect.
func TestWatchTCPSplits(t *testing.T) {
	mixed := framed(t, "api.test", "blocked.test", "www.example", "also.blocked.test")
	hello := append([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), bytes.Repeat([]byte{7}, 501)...)
	for _, c := range []struct {
		name    string
		audit   bool
		stream  []byte
		sent    []byte
		answers int
		records int
		ends    error
	}{
		{name: "two pass, two are answered here", stream: mixed, sent: framed2(t, map[int]string{0: "api.test", 2: "www.example"}), answers: 2, records: 4},
		{name: "all pass in audit", audit: true, stream: mixed, sent: mixed, records: 4},
		{name: "TLS", stream: hello, ends: ErrNotDNS, records: 1},
		{name: "TLS in audit", audit: true, stream: hello, sent: hello, records: 1},
		{name: "SSH", stream: []byte("SSH-2.0-OpenSSH_9.9\r\n"), ends: ErrNotDNS, records: 1},
		{name: "a length of nothing", stream: []byte{0, 0, 0, 0}, ends: ErrNotDNS, records: 1},
		{name: "a question, then something else", stream: append(framed(t, "api.test"), hello...), sent: framed(t, "api.test"), ends: ErrNotDNS, records: 2},
		{name: "a question that is cut", stream: framed(t, "api.test")[:20], ends: ErrNotDNS, records: 1},
		{name: "a question that is cut in audit", audit: true, stream: framed(t, "api.test")[:20], sent: framed(t, "api.test")[:20], records: 1},
		{name: "a blocked one, cut after its header", stream: framed(t, "blocked.test")[:14], ends: ErrNotDNS, records: 1},
		{name: "nothing", stream: nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, sizes := range [][]int{nil, {1}, {2}, {3, 1}, {13, 17}, {31}, {1, 100}} {
				s, rec := enforcing(nil)
				if c.audit {
					s, rec = auditing(nil)
				}
				sent, answered, err := playTCP(s, c.stream, sizes...)
				if !bytes.Equal(sent, c.sent) || !errors.Is(err, c.ends) || len(rec.list()) != c.records {
					t.Fatalf("pieces of %v: sent %x, ended %v, recorded %+v", sizes, sent, err, rec.list())
				}
				n := 0
				for r := bytes.NewReader(answered); r.Len() > 0; n++ {
					raw, err := readFrame(r)
					if err != nil || unpacked(t, raw).Rcode != dns.RcodeNameError {
						t.Fatalf("pieces of %v: answer %x %v", sizes, raw, err)
					}
				}
				if n != c.answers {
					t.Fatalf("pieces of %v: %d answers", sizes, n)
				}
			}
		})
	}
}

// framed2 is framed with the IDs given.
func framed2(t testing.TB, names map[int]string) []byte {
	var b []byte
	for id := range 16 {
		if n, ok := names[id]; ok {
			q := question(n, dns.TypeA, 0)
			q.Id = uint16(id)
			b = append(b, frame(packed(t, q))...)
		}
	}
	return b
}

// TestWatchTCPAnswersAreWhole: an answer made here waits for the end of the server's message that is on its way.
func TestWatchTCPAnswersAreWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := enforcing(nil)
		w := startWatch(t, s, "tcp")
		w.client.Write(framed2(t, map[int]string{1: "api.test"}))
		raw, err := readFrame(w.server)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := world.Exchange(t.Context(), unpacked(t, raw))
		answer := frame(packed(t, r))
		w.server.Write(answer[:7])
		w.client.Write(framed2(t, map[int]string{2: "blocked.test"}))
		var got []uint16
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2 {
				raw, err := readFrame(w.client)
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, unpacked(t, raw).Id)
			}
		}()
		synctest.Wait()
		w.server.Write(answer[7:])
		<-done
		if !slices.Equal(got, []uint16{2, 1}) {
			t.Errorf("answers %v", got)
		}
		w.end()
	})
}

// TestWatchTCPServerCannotOpenUp: whatever the server sends, the client's bytes stay judged.
func TestWatchTCPServerCannotOpenUp(t *testing.T) {
	for name, says := range map[string][]byte{"half an answer": {0, 100, 1, 2, 3}, "no dns": []byte("220 ready\r\n"), "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			s, _ := enforcing(nil)
			inner, client := net.Pipe()
			server := &scripted{chunks: [][]byte{says}} // then EOF at once
			if says == nil {
				server.chunks = nil
			}
			done := make(chan error)
			go func() {
				_, _, err := s.Watch(t.Context(), "tcp", google, halfCloser{inner}, server)
				done <- err
			}()
			if got := make([]byte, len(says)); len(says) > 0 {
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, says) {
					t.Errorf("client got %q %v", got, err)
				}
			}
			client.Write([]byte("SSH-2.0-exfiltration\r\n"))
			if err := <-done; !errors.Is(err, ErrNotDNS) || len(server.written()) > 0 {
				t.Errorf("ended %v, server got %q", err, server.written())
			}
			client.Close()
		})
	}
}

// halfCloser lets a pipe take the end of one direction for nothing.
type halfCloser struct{ net.Conn }

func (halfCloser) CloseWrite() error { return nil }

// TestWatchTCPAuditHangsNothing: bytes that look like the beginning of a message and are none.
func TestWatchTCPAuditHangsNothing(t *testing.T) {
	for _, c := range []struct {
		name           string
		client, server []byte
		after          time.Duration
	}{
		{"a server that speaks first", nil, []byte("220 mail.test ready\r\n"), 0},
		{"a client that looks like dns", framed(t, "api.test")[:20], nil, watchHold},
		{"a client of few octets", []byte("hello"), nil, watchHold},
		{"a server that looks like dns", nil, []byte{1, 0, 0, 1, 0x80, 1}, watchHold},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := auditing(nil)
				w := startWatch(t, s, "tcp")
				start := time.Now()
				from, to, b := w.client, w.server, c.client
				if b == nil {
					from, to, b = w.server, w.client, c.server
				}
				from.Write(b)
				got := make([]byte, len(b))
				if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, b) || time.Since(start) != c.after {
					t.Errorf("after %v: %q %v", time.Since(start), got, err)
				}
				// From now on it is a plain stream.
				go w.client.Write([]byte{1})
				if _, err := io.ReadFull(w.server, got[:1]); err != nil || got[0] != 1 && c.client != nil {
					t.Errorf("afterwards: %v", err)
				}
				w.end()
			})
		})
	}
}

// TestWatchTCPHalfClose: the answers to a client that has sent its last question still come, over real sockets.
func TestWatchTCPHalfClose(t *testing.T) {
	_, port := serveZone(t, "127.0.0.1", 0, answers(world))
	s, rec := enforcing(nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client := dial(t, "tcp", ln.Addr().String())
	inner, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	outer := dial(t, "tcp", server.String())
	done := make(chan error)
	go func() {
		_, _, err := s.Watch(t.Context(), "tcp", server, inner, outer)
		done <- err
	}()
	client.Write(framed(t, "api.test", "blocked.test", "www.example"))
	client.(*net.TCPConn).CloseWrite()
	for range 3 {
		if _, err := readFrame(client); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("ended %v", err)
	}
	if n := len(rec.list()); n != 3 {
		t.Errorf("%d recorded", n)
	}
}

func TestInspect(t *testing.T) {
	good := packed(t, question("api.test", dns.TypeA, 1232))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	axfr := question("api.test", dns.TypeIXFR, 0)
	axfr.Ns = []dns.RR{record("api.test. 0 SOA a. b. 1 2 3 4 5")}
	soa := question("api.test", dns.TypeA, 0)
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

// FuzzWatchTCP: any stream in any pieces has the effect it has in one, and in enforce nothing passes but allowed questions.
func FuzzWatchTCP(f *testing.F) {
	f.Add(framed(f, "api.test", "blocked.test", "www.example"), uint8(3), uint8(20), false)
	f.Add([]byte("SSH-2.0-x\r\n"), uint8(1), uint8(1), true)
	f.Add(framed(f, "api.test")[:20], uint8(7), uint8(2), true)
	f.Fuzz(func(t *testing.T, stream []byte, a, b uint8, audit bool) {
		play := func(sizes ...int) (sent, answered []byte, err error, rec []Query) {
			s, r := enforcing(nil)
			if audit {
				s, r = auditing(nil)
			}
			sent, answered, err = playTCP(s, stream, sizes...)
			return sent, answered, err, r.list()
		}
		sent, answered, err, rec := play()
		sent2, answered2, err2, rec2 := play(int(a), int(b))
		if !bytes.Equal(sent, sent2) || !bytes.Equal(answered, answered2) || (err == nil) != (err2 == nil) || len(rec) != len(rec2) {
			t.Fatalf("in one piece: sent %x, %v, %d records\nin pieces of %d and %d: sent %x, %v, %d records", sent, err, len(rec), a, b, sent2, err2, len(rec2))
		}
		if audit {
			return
		}
		for r := bytes.NewReader(sent); r.Len() > 0; {
			raw, err := readFrame(r)
			if err != nil {
				t.Fatalf("half a question passed: %x", sent)
			}
			q, ok := inspect(raw)
			if !ok || nameOf(q.Question[0].Name).odd {
				t.Fatalf("passed: %x", raw)
			}
			if n := nameOf(q.Question[0].Name).judged; !isOrUnder(n, "example") && n != "api.test" {
				t.Fatalf("passed: %q", n)
			}
		}
	})
}
