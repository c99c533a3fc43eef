package resolver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/internal/testdns"
)

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
	_, _, err = s.Watch(context.Background(), Explicit{Network: "tcp", Server: google, Route: "direct"}, client, server)
	return server.written(), client.written(), err
}

func framed(t testing.TB, names ...string) []byte {
	var b []byte
	for i, n := range names {
		q := testdns.Question(n, dns.TypeA, 0)
		q.Id = uint16(i)
		b = append(b, stub.Frame(packed(t, q))...)
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
					raw, err := stub.ReadFrame(r)
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
			q := testdns.Question(n, dns.TypeA, 0)
			q.Id = uint16(id)
			b = append(b, stub.Frame(packed(t, q))...)
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
		raw, err := stub.ReadFrame(w.server)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := world.Exchange(t.Context(), unpacked(t, raw))
		answer := stub.Frame(packed(t, r))
		w.server.Write(answer[:7])
		w.client.Write(framed2(t, map[int]string{2: "blocked.test"}))
		var got []uint16
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2 {
				raw, err := stub.ReadFrame(w.client)
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
				_, _, err := s.Watch(t.Context(), Explicit{Network: "tcp", Server: google, Route: "direct"}, halfCloser{inner}, server)
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
	_, port := testdns.Serve(t, "127.0.0.1", 0, world.Answers())
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
		_, _, err := s.Watch(t.Context(), Explicit{Network: "tcp", Server: server, Route: "direct"}, inner, outer)
		done <- err
	}()
	client.Write(framed(t, "api.test", "blocked.test", "www.example"))
	client.(*net.TCPConn).CloseWrite()
	for range 3 {
		if _, err := stub.ReadFrame(client); err != nil {
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

// FuzzWatchTCP: any stream in any pieces has the effect it has in one, and in enforce nothing passes but allowed questions.
func FuzzWatchTCP(f *testing.F) {
	f.Add(framed(f, "api.test", "blocked.test", "www.example"), uint8(3), uint8(20), false)
	f.Add([]byte("SSH-2.0-x\r\n"), uint8(1), uint8(1), true)
	f.Add(framed(f, "api.test")[:20], uint8(7), uint8(2), true)
	f.Fuzz(func(t *testing.T, stream []byte, a, b uint8, audit bool) {
		play := func(sizes ...int) (sent, answered []byte, rec []Query, err error) {
			s, r := enforcing(nil)
			if audit {
				s, r = auditing(nil)
			}
			sent, answered, err = playTCP(s, stream, sizes...)
			return sent, answered, r.list(), err
		}
		sent, answered, rec, err := play()
		sent2, answered2, rec2, err2 := play(int(a), int(b))
		if !bytes.Equal(sent, sent2) || !bytes.Equal(answered, answered2) || (err == nil) != (err2 == nil) || len(rec) != len(rec2) {
			t.Fatalf("in one piece: sent %x, %v, %d records\nin pieces of %d and %d: sent %x, %v, %d records", sent, err, len(rec), a, b, sent2, err2, len(rec2))
		}
		if audit {
			return
		}
		for r := bytes.NewReader(sent); r.Len() > 0; {
			raw, err := stub.ReadFrame(r)
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
