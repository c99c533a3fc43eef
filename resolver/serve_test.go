package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/internal/testdns"
)

// serve runs s on a loopback port until the test ends.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	pc, ln := testdns.ListenBoth(t, "127.0.0.1", 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, pc, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	return pc.LocalAddr().String()
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestServeBothTransports(t *testing.T) {
	s, _ := enforcing(world)
	at := serve(t, s)
	for _, network := range []string{"udp", "tcp"} {
		for name, rcode := range map[string]int{"api.test": dns.RcodeSuccess, "blocked.test": dns.RcodeNameError} {
			c := &dns.Client{Net: network}
			r, _, err := c.Exchange(testdns.Question(name, dns.TypeA, 0), at)
			if err != nil || r.Rcode != rcode {
				t.Errorf("%s %s: %v %v", network, name, r, err)
			}
		}
	}
}

// TestParallelFromOneSocket is how musl and glibc ask: A and AAAA at once, answers in any order.
func TestParallelFromOneSocket(t *testing.T) {
	second := make(chan struct{})
	s, _ := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		if q.Question[0].Qtype == dns.TypeA {
			<-second // the A answer comes after the AAAA answer
		}
		return world.Exchange(ctx, q)
	}))
	c := dial(t, "udp", serve(t, s))
	a, aaaa := testdns.Question("api.test", dns.TypeA, 0), testdns.Question("api.test", dns.TypeAAAA, 0)
	c.Write(packed(t, a))
	c.Write(packed(t, aaaa))
	buf := make([]byte, 512)
	for i, want := range []*dns.Msg{aaaa, a} {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if r := unpacked(t, buf[:n]); r.Id != want.Id || len(r.Answer) != 1 {
			t.Fatalf("answer %d: %v", i, r)
		}
		if i == 0 {
			close(second)
		}
	}
}

// TestTruncatedThenTCP is the way of a large answer to a client without EDNS.
func TestTruncatedThenTCP(t *testing.T) {
	big := zone{}
	for i := range 100 {
		big["big.example. A"] = append(big["big.example. A"], fmt.Sprintf("big.example. 60 A 192.0.2.%d", i))
	}
	s, _ := enforcing(big)
	at := serve(t, s)
	r, _, err := (&dns.Client{}).Exchange(testdns.Question("big.example", dns.TypeA, 0), at)
	if err != nil || !r.Truncated || len(r.Answer) == 0 {
		t.Fatalf("UDP: %v %v", r, err)
	}
	r, _, err = (&dns.Client{Net: "tcp"}).Exchange(testdns.Question("big.example", dns.TypeA, 0), at)
	if err != nil || r.Truncated || len(r.Answer) != 100 {
		t.Fatalf("TCP: %v %v", r, err)
	}
}

// TestPipelined: many questions in one segment or octet by octet, answers as they are ready, all of them before the end.
func TestPipelined(t *testing.T) {
	const n = 100
	release := make(chan struct{})
	s, _ := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		if q.Question[0].Name == "www.example." {
			<-release
		}
		return world.Exchange(ctx, q)
	}))
	c := dial(t, "tcp", serve(t, s))
	var stream []byte
	ids := map[uint16]bool{}
	ask := func(name string, id uint16) {
		q := testdns.Question(name, dns.TypeA, 0)
		q.Id = id
		ids[id] = true
		stream = append(stream, stub.Frame(packed(t, q))...)
	}
	ask("www.example", 1)
	for i := range n {
		ask("api.test", uint16(i+2))
	}
	go func() {
		for _, b := range stream[:200] {
			c.Write([]byte{b})
		}
		c.Write(stream[200:])
		c.(*net.TCPConn).CloseWrite()
	}()
	for i := range n + 1 {
		raw, err := stub.ReadFrame(c)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		r := unpacked(t, raw)
		if i < n && r.Id == 1 || !ids[r.Id] {
			t.Fatalf("answer %d has ID %d", i, r.Id)
		}
		delete(ids, r.Id)
		if i == n-1 {
			close(release)
		}
	}
	if _, err := stub.ReadFrame(c); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last answer: %v", err)
	}
}

// pipes is a listener whose connections are made by the test.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn)} }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.conns) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inBubble runs s on pipes with a clock of its own.
func inBubble(t *testing.T, s *Server, run func(t *testing.T, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, nil, p) }()
		run(t, p)
		cancel()
		<-done
	})
}

func TestIdleConnectionsEnd(t *testing.T) {
	s, _ := enforcing(world)
	inBubble(t, s, func(t *testing.T, p *pipes) {
		for name, first := range map[string][]byte{"silent": nil, "half a question": {0, 100, 1, 2}} {
			c := p.dial()
			start := time.Now()
			c.Write(first)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", name, err)
			}
			if got := time.Since(start); got != ConnIdle {
				t.Errorf("%s: closed after %v", name, got)
			}
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	s, _ := enforcing(world)
	inBubble(t, s, func(t *testing.T, p *pipes) {
		var open []net.Conn
		for range MaxConns {
			open = append(open, p.dial())
		}
		c := p.dial()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one too many: %v", err)
		}
		if n := s.Counters()["tcp-limited"]; n != 1 {
			t.Errorf("counted %d", n)
		}
		open[0].Close()
		synctest.Wait()
		c = p.dial()
		go c.Write(stub.Frame(packed(t, testdns.Question("api.test", dns.TypeA, 0))))
		if raw, err := stub.ReadFrame(c); err != nil || len(unpacked(t, raw).Answer) != 1 {
			t.Errorf("after one left: %v", err)
		}
	})
}

// TestOneStuckQuestion: a dead upstream is SERVFAIL after a bounded time, and other questions do not notice.
func TestOneStuckQuestion(t *testing.T) {
	s, _ := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		if q.Question[0].Name == "stuck.example." {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return world.Exchange(ctx, q)
	}))
	inBubble(t, s, func(t *testing.T, p *pipes) {
		c := p.dial()
		start := time.Now()
		go func() {
			c.Write(stub.Frame(packed(t, testdns.Question("stuck.example", dns.TypeA, 0))))
			c.Write(stub.Frame(packed(t, testdns.Question("api.test", dns.TypeA, 0))))
		}()
		for i, want := range []struct {
			rcode int
			after time.Duration
		}{{dns.RcodeSuccess, 0}, {dns.RcodeServerFailure, MaxAnswer}} {
			raw, err := stub.ReadFrame(c)
			if err != nil {
				t.Fatal(err)
			}
			if r := unpacked(t, raw); r.Rcode != want.rcode || time.Since(start) != want.after {
				t.Errorf("answer %d after %v: %v", i, time.Since(start), r)
			}
		}
	})
}

// flaky fails some reads before it is closed.
type flaky struct {
	net.PacketConn
	failures int
}

func (f *flaky) ReadFrom([]byte) (int, net.Addr, error) {
	if f.failures--; f.failures >= 0 {
		return 0, nil, errors.New("icmp error")
	}
	return 0, nil, net.ErrClosed
}
func (f *flaky) LocalAddr() net.Addr { return &net.UDPAddr{} }
func (f *flaky) Close() error        { return nil }

func TestFailuresOfAListener(t *testing.T) {
	for _, c := range []struct {
		name     string
		failures int
		want     bool // ends because it was closed
	}{{"a few pass", 10, true}, {"one that stays is the end", maxFailures + 1, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := enforcing(world)
				if err := s.Serve(t.Context(), &flaky{failures: c.failures}, nil); errors.Is(err, net.ErrClosed) != c.want {
					t.Fatalf("%v", err)
				}
			})
		})
	}
	s, _ := enforcing(world)
	if err := s.Serve(t.Context(), nil, nil); err == nil {
		t.Fatal("served nothing without an error")
	}
}

// FuzzMessage feeds a hostile client's datagram to the pipeline and holds what every client may rely on.
func FuzzMessage(f *testing.F) {
	for _, q := range []*dns.Msg{
		testdns.Question("api.test", dns.TypeA, 0), testdns.Question("ech.example", dns.TypeHTTPS, 1232), testdns.Question("_x._tcp.example", dns.TypeSRV, 512), testdns.Question(".", dns.TypeNS, 4096),
	} {
		b, _ := q.Pack()
		f.Add(b)
	}
	f.Add([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, limit := range []int{0, dns.MaxMsgSize} {
			up := &spy{Upstream: world}
			s, rec := enforcing(up)
			b := s.handle(t.Context(), raw, "", limit)
			if b == nil {
				if len(raw) >= headerLen && raw[2]&0x80 == 0 {
					t.Fatalf("a question has no answer")
				}
				continue
			}
			r := unpacked(t, b)
			if !r.Response || r.Id != uint16(raw[0])<<8|uint16(raw[1]) || limit == 0 && len(b) > MaxUDP {
				t.Fatalf("answer %v", r)
			}
			for _, q := range up.asked() { // nothing leaves that the policy did not allow
				name, _, _ := cutLast(q)
				if n := nameOf(name); n.odd || !s.Decide(n.judged, 0).Allow {
					t.Fatalf("upstream was asked %q", q)
				}
			}
			if len(rec.list()) > 1 {
				t.Fatalf("recorded %+v", rec.list())
			}
		}
	})
}

func cutLast(s string) (before, after string, found bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// FuzzAnswer feeds a hostile upstream's answer to the second half of the pipeline.
func FuzzAnswer(f *testing.F) {
	for _, key := range []string{"cloaked.example. A", "ech.example. HTTPS", "mixed.example. A", "any.example. ANY"} {
		name, qtype, _ := cutLast(key)
		r, _ := world.Exchange(context.Background(), testdns.Question(name, dns.StringToType[qtype], 1232))
		b, _ := r.Pack()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, _ := enforcing(upstreamFunc(func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
			r := new(dns.Msg)
			if err := r.Unpack(raw); err != nil {
				return nil, err
			}
			r.Question = q.Question
			return r, nil
		}))
		b := s.handle(t.Context(), packed(t, testdns.Question("ech.example", dns.TypeHTTPS, 4096)), "", 0)
		r := unpacked(t, b)
		for _, section := range [][]dns.RR{r.Answer, r.Ns, r.Extra} {
			for _, rr := range section {
				if a, ok := addressOf(rr); ok && plain(a).IsPrivate() {
					t.Fatalf("rebinding: %v", rr)
				}
			}
		}
		if tr := traceAnswer("ech.example.", r.Answer); len(tr.chain) > MaxChain+1 {
			t.Fatalf("chain of %d", len(tr.chain))
		}
	})
}
