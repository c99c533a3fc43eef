package flow_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/testnet"
)

var (
	goodAddr = netip.MustParseAddrPort("192.0.2.1:443")
	evilAddr = netip.MustParseAddrPort("198.51.100.6:443")
	source   = netip.MustParseAddrPort("10.77.0.2:40000")
)

// world is everything around a gate: the names that its resolver gave out, the servers that can be dialled, and what was
// written into the book.
type world struct {
	t    *testing.T
	gate *flow.Gate

	asked   map[netip.Addr][]string // evidence
	dns     map[string][]netip.Addr // what our own upstream would answer
	servers map[netip.AddrPort]func(*testnet.Conn)
	fails   map[netip.AddrPort]error

	mu     sync.Mutex
	events []*event.Event
	dialed []string
}

func newWorld(t *testing.T, cfg policy.Config) *world {
	t.Helper()
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, asked: map[netip.Addr][]string{}, dns: map[string][]netip.Addr{},
		servers: map[netip.AddrPort]func(*testnet.Conn){}, fails: map[netip.AddrPort]error{}}
	w.gate = &flow.Gate{
		App: "app", Sandbox: "test", Door: "netstack", Policy: p, Events: w,
		Routes: map[string]flow.Dialer{"direct": w},
		Names: flow.Names{
			Recall: func(_ string, a netip.Addr) (asked, chain, heard []string) { return w.asked[a], nil, nil },
			Confirm: func(_ context.Context, _, name string, a netip.Addr) bool {
				if !slices.Contains(w.dns[name], a) {
					return false
				}
				w.asked[a] = append(w.asked[a], name)
				return true
			},
			Hold: func(netip.Addr) func() { return func() {} },
		},
	}
	return w
}

func (w *world) Emit(e *event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.mu.Unlock()
	at := netip.MustParseAddrPort(address)
	if err := w.fails[at]; err != nil {
		return nil, err
	}
	serve := w.servers[at]
	if serve == nil {
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := testnet.Pair()
	go serve(theirs)
	return ours, nil
}

// program is a flow as the program inside sees it.
type program struct {
	*testnet.Conn
	accepted chan struct{}
	rejected chan flow.Reason
	done     chan struct{}
}

// connect lets a TCP flow arrive at the gate.
func (w *world) connect(ctx context.Context, dst netip.AddrPort) *program {
	inside, gates := testnet.Pair()
	p := &program{Conn: inside, accepted: make(chan struct{}), rejected: make(chan flow.Reason, 8), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		w.gate.Handle(ctx, flow.Arrival{
			Network: "tcp", Src: source, Dst: dst,
			Accept: func() (net.Conn, error) { close(p.accepted); return gates, nil },
			Reject: func(r flow.Reason) error { p.rejected <- r; gates.Abort(); return nil },
		})
	}()
	return p
}

// connects returns the network-connect events as "verdict reason hostname source".
func (w *world) connects() (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if c, ok := e.Details.(*event.Connect); ok {
			lines = append(lines, fmt.Sprintf("%s %s %s %s", c.Verdict, c.Reason, c.Hostname, c.NameSource))
		}
	}
	return lines
}

// closes returns the network-close events as "close sent received".
func (w *world) closes() (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if c, ok := e.Details.(*event.Close); ok {
			lines = append(lines, fmt.Sprintf("%s %d %d", c.Close, c.BytesSent, c.BytesReceived))
		}
	}
	return lines
}

func (w *world) expect(connects, closes []string) {
	w.t.Helper()
	if got := w.connects(); !slices.Equal(got, connects) {
		w.t.Errorf("network-connect: %q, want %q", got, connects)
	}
	if got := w.closes(); !slices.Equal(got, closes) {
		w.t.Errorf("network-close: %q, want %q", got, closes)
	}
}

// hello returns a ClientHello for name, as crypto/tls writes it.
func hello(name string) []byte {
	a, b := net.Pipe()
	go func() {
		tls.Client(a, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS13}).Handshake()
		a.Close()
	}()
	head := make([]byte, 5)
	io.ReadFull(b, head)
	body := make([]byte, int(head[3])<<8|int(head[4]))
	io.ReadFull(b, body)
	b.Close()
	return append(head, body...)
}

// inOneRecord puts the handshake messages of two records into one.
func inOneRecord(a, b []byte) []byte {
	n := len(a) + len(b) - 10
	return slices.Concat([]byte{22, 3, 1, byte(n >> 8), byte(n)}, a[5:], b[5:])
}

// echo is a server that sends back what it gets.
func echo(c *testnet.Conn) {
	io.Copy(c, c)
	c.Close()
}

// sink is a server that keeps what it gets.
type sink struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *sink) serve(c *testnet.Conn) {
	defer c.Close()
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		s.mu.Lock()
		s.got.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func enforce(allow ...string) policy.Config { return policy.Config{Mode: "enforce", Allow: allow} }

func TestAllowedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example"))
		w.asked[goodAddr.Addr()] = []string{"good.example"}
		w.servers[goodAddr] = echo
		p := w.connect(t.Context(), goodAddr)
		first := hello("good.example")
		go func() { p.Write(first); p.Write([]byte("more")); p.CloseWrite() }()
		got, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(got, append(first, "more"...)) {
			t.Fatalf("echo gave %d octets, %v", len(got), err)
		}
		<-p.done
		n := len(first) + 4
		w.expect([]string{"allow  good.example sni"}, []string{fmt.Sprintf("fin %d %d", n, n)})
	})
}

// What the program wrote just before it ended leaves, though it was still being judged.
func TestDrainWaitsForHeldBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example"))
		w.asked[goodAddr.Addr()] = []string{"good.example"}
		var server sink
		w.servers[goodAddr] = server.serve
		p := w.connect(t.Context(), goodAddr)
		<-p.accepted
		first := hello("good.example")
		p.Write(first[:10])
		drained := make(chan struct{})
		go func() { w.gate.Drain(t.Context()); close(drained) }()
		time.Sleep(time.Second)
		select {
		case <-drained:
			t.Fatal("nobody waits for the held bytes")
		default:
		}
		p.Write(first[10:])
		p.CloseWrite()
		<-drained
		synctest.Wait()
		if server.String() != string(first) {
			t.Errorf("%d octets left, want %d", len(server.String()), len(first))
		}
		<-p.done
	})
}

// A lie in the first bytes resets the flow before one of them left.
func TestLyingSNI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example"))
		w.asked[goodAddr.Addr()] = []string{"good.example"}
		server := &sink{}
		w.servers[goodAddr] = server.serve
		p := w.connect(t.Context(), goodAddr)
		p.Write(hello("evil.example"))
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("client read %v, want a reset", err)
		}
		<-p.done
		if server.String() != "" {
			t.Fatalf("server got %q", server)
		}
		w.expect([]string{"deny name-mismatch evil.example sni"}, nil)
	})
}

// Without evidence nothing is dialled until the claim is confirmed by our own upstream.
func TestClaimWithoutEvidence(t *testing.T) {
	for _, c := range []struct {
		name  string
		dns   []netip.Addr
		want  string
		dials int
	}{
		{"confirmed", []netip.Addr{goodAddr.Addr()}, "allow  good.example sni", 1},
		{"another address", []netip.Addr{evilAddr.Addr()}, "deny no-evidence good.example sni", 0},
		{"no such name", nil, "deny no-evidence good.example sni", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, enforce("good.example"))
				w.dns["good.example"] = c.dns
				w.servers[goodAddr] = echo
				p := w.connect(t.Context(), goodAddr)
				<-p.accepted
				synctest.Wait()
				if len(w.dialed) != 0 {
					t.Fatal("dialled before the claim was read")
				}
				p.Write(hello("good.example"))
				synctest.Wait()
				p.Close()
				<-p.done
				if got := w.connects(); !slices.Equal(got, []string{c.want}) || len(w.dialed) != c.dials {
					t.Fatalf("%q after %d dials, want %q after %d", got, len(w.dialed), c.want, c.dials)
				}
			})
		})
	}
}

func TestDeniedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443"))
		w.servers[evilAddr] = echo
		p := w.connect(t.Context(), evilAddr)
		if r := <-p.rejected; r != flow.Denied {
			t.Fatalf("rejected with %v", r)
		}
		<-p.done
		select {
		case <-p.accepted:
			t.Fatal("accepted")
		default:
		}
		if len(w.dialed) > 0 {
			t.Fatal("dialled", w.dialed)
		}
		w.expect([]string{"deny default  none"}, nil)
	})
}

func TestDialErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want flow.Reason
		how  string
	}{
		{"closed port", syscall.ECONNREFUSED, flow.Refused, "error"},
		{"no route to host", syscall.EHOSTUNREACH, flow.HostUnreachable, "error"},
		{"no network", syscall.ENETUNREACH, flow.NetUnreachable, "error"},
		{"black hole", context.DeadlineExceeded, flow.TimedOut, "timeout"},
		{"black hole, by the clock of the socket", os.ErrDeadlineExceeded, flow.TimedOut, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, enforce("192.0.2.1:443"))
				w.fails[goodAddr] = &net.OpError{Op: "dial", Err: c.err}
				p := w.connect(t.Context(), goodAddr)
				if r := <-p.rejected; r != c.want {
					t.Fatalf("rejected with %v, want %v", r, c.want)
				}
				<-p.done
				w.expect([]string{"allow   none"}, []string{c.how + " 0 0"})
			})
		})
	}
}

// A server that speaks first is heard at once, and a client that stays silent is judged without a claim.
func TestServerFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example:22"))
		at := netip.AddrPortFrom(goodAddr.Addr(), 22)
		w.asked[at.Addr()] = []string{"good.example"}
		w.servers[at] = func(c *testnet.Conn) { c.Write([]byte("SSH-2.0-x\r\n")); echo(c) }
		start := time.Now()
		p := w.connect(t.Context(), at)
		b := make([]byte, 64)
		n, _ := p.Read(b)
		if string(b[:n]) != "SSH-2.0-x\r\n" || time.Since(start) != 0 {
			t.Fatalf("banner %q after %v", b[:n], time.Since(start))
		}
		time.Sleep(flow.DefaultHold + time.Millisecond)
		synctest.Wait()
		w.expect([]string{"allow  good.example dns"}, nil)
		p.CloseWrite()
		io.ReadAll(p)
		<-p.done
		w.expect([]string{"allow  good.example dns"}, []string{"fin 0 11"})
	})
}

// Two names on one address, one of them not allowed: without a claim nobody can say which is meant.
func TestAmbiguousName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example:5432"))
		at := netip.AddrPortFrom(goodAddr.Addr(), 5432)
		w.asked[at.Addr()] = []string{"good.example", "evil.example"}
		server := &sink{}
		w.servers[at] = server.serve
		p := w.connect(t.Context(), at)
		p.Write([]byte("not a protocol"))
		<-p.done
		if server.String() != "" {
			t.Fatalf("server got %q", server)
		}
		if got := w.connects(); len(got) != 1 || got[0][:len("deny ambiguous-name")] != "deny ambiguous-name" {
			t.Fatalf("%q", got)
		}
	})
}

var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// A hello that comes later is judged when it comes: after SSLRequest, and when its last octet comes after the hold.
func TestLateHello(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(p *program)
		deny  bool
	}{
		{"after SSLRequest, allowed", func(p *program) { p.Write(sslRequest); synctest.Wait(); p.Write(hello("good.example")) }, false},
		{"after SSLRequest, denied", func(p *program) { p.Write(sslRequest); synctest.Wait(); p.Write(hello("evil.example")) }, true},
		{"in one segment with SSLRequest", func(p *program) { p.Write(append(slices.Clone(sslRequest), hello("evil.example")...)) }, true},
		{"behind another hello", func(p *program) { p.Write(append(hello("good.example"), hello("evil.example")...)) }, true},
		{"in the record of another hello", func(p *program) { p.Write(inOneRecord(hello("good.example"), hello("evil.example"))) }, true},
		{"later in the record of another hello", func(p *program) {
			both := inOneRecord(hello("good.example"), hello("evil.example"))
			first := len(hello("good.example"))
			p.Write(both[:first])
			synctest.Wait()
			p.Write(both[first:])
		}, true},
		{"in a record that does not end", func(p *program) {
			h := hello("evil.example")
			h[4]++
			p.Write(h)
		}, true},
		{"behind an HTTP head", func(p *program) {
			p.Write(append([]byte("OPTIONS * HTTP/1.1\r\nHost: good.example\r\nUpgrade: TLS/1.0\r\n\r\n"), hello("evil.example")...))
		}, true},
		{"behind a line of SSH", func(p *program) { p.Write(append([]byte("SSH-2.0-x\r\n"), hello("evil.example")...)) }, true},
		{"behind an HTTP head, allowed", func(p *program) {
			p.Write(append([]byte("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"), hello("good.example")...))
		}, false},
		{"its end after the hold", func(p *program) {
			h := hello("evil.example")
			p.Write(h[:50])
			time.Sleep(flow.DefaultHold + time.Second)
			p.Write(h[50:])
		}, true},
		{"all of it after the hold", func(p *program) { time.Sleep(flow.DefaultHold + time.Second); p.Write(hello("evil.example")) }, true},
		{"after STARTTLS", func(p *program) {
			p.Write([]byte("EHLO me\r\n"))
			synctest.Wait()
			p.Write([]byte("STARTTLS\r\n"))
			synctest.Wait()
			p.Write(hello("evil.example"))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, enforce("good.example:5432"))
				at := netip.AddrPortFrom(goodAddr.Addr(), 5432)
				w.asked[at.Addr()] = []string{"good.example"}
				server := &sink{}
				w.servers[at] = server.serve
				p := w.connect(t.Context(), at)
				c.write(p)
				synctest.Wait()
				complete := bytes.Contains([]byte(server.String()), []byte("evil.example")) && len(server.String()) > 200
				if c.deny && complete {
					t.Fatal("the server got the whole hello")
				}
				p.CloseWrite()
				synctest.Wait()
				p.Close()
				<-p.done
				closes, connects := w.closes(), w.connects()
				late := len(closes) == 1 && closes[0][:6] == "policy"
				if denied := late || connects[0][:4] == "deny"; denied != c.deny {
					t.Fatalf("closes %q, connects %q", closes, connects)
				}
			})
		})
	}
}

func TestAuditLetsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, policy.Config{Mode: "audit", Allow: []string{"other.example"}})
		w.servers[goodAddr] = echo
		p := w.connect(t.Context(), goodAddr)
		p.Write([]byte("hi"))
		p.CloseWrite()
		if got, _ := io.ReadAll(p); string(got) != "hi" {
			t.Fatalf("got %q", got)
		}
		<-p.done
		w.expect([]string{"would-deny default  none"}, []string{"fin 2 2"})
	})
}

func TestGuardHoldsInAudit(t *testing.T) {
	for _, dst := range []string{"127.0.0.1:80", "169.254.169.254:80", "10.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, policy.Config{})
			w.servers[netip.MustParseAddrPort(dst)] = echo
			p := w.connect(t.Context(), netip.MustParseAddrPort(dst))
			<-p.done
			if len(w.dialed) > 0 || len(p.rejected) != 1 {
				t.Fatalf("%s: dialled %v, rejections %d", dst, w.dialed, len(p.rejected))
			}
		})
	}
}

func TestFlowLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443"))
		w.gate.MaxFlows = 2
		w.servers[goodAddr] = echo
		ctx, cancel := context.WithCancel(t.Context())
		a, b := w.connect(ctx, goodAddr), w.connect(ctx, goodAddr)
		<-a.accepted
		<-b.accepted
		c := w.connect(ctx, goodAddr)
		<-c.done
		if got := w.connects(); !slices.Contains(got, "deny limit  none") {
			t.Fatalf("%q", got)
		}
		cancel()
		<-a.done
		<-b.done
		if w.gate.Flows() != 0 {
			t.Fatalf("%d flows left", w.gate.Flows())
		}
	})
}

func TestSandboxExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443"))
		w.servers[goodAddr] = echo
		ctx, cancel := context.WithCancel(t.Context())
		p := w.connect(ctx, goodAddr)
		p.Write([]byte("x"))
		p.Read(make([]byte, 1))
		cancel()
		<-p.done
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		w.expect([]string{"allow   none"}, []string{"exit 1 1"})
	})
}

// A route that does not exist is no way out, and no other one is taken instead.
func TestNoTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443 via tunnel"))
		w.servers[goodAddr] = echo
		p := w.connect(t.Context(), goodAddr)
		<-p.done
		if len(w.dialed) != 0 {
			t.Fatal("dialled", w.dialed)
		}
		w.expect([]string{"deny no-tunnel  none"}, nil)
	})
}

// A connection that an install rule let in does not outlive the rule.
func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, err := policy.ParseFile("weir.yaml", []byte("version: 1\napps:\n  app:\n    allow: [\"good.example\"]\n    install:\n      allow: [\"registry.example\"]\n"))
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, policy.Config{File: file, App: "app"})
		w.asked[goodAddr.Addr()] = []string{"good.example"}
		w.asked[evilAddr.Addr()] = []string{"registry.example"}
		w.servers[goodAddr], w.servers[evilAddr] = echo, echo
		good, registry := w.connect(t.Context(), goodAddr), w.connect(t.Context(), evilAddr)
		good.Write(hello("good.example"))
		registry.Write(hello("registry.example"))
		synctest.Wait()
		w.gate.Policy.InstallDone()
		w.gate.Recheck()
		<-registry.done
		if got := w.closes(); len(got) != 1 || got[0][:6] != "policy" {
			t.Fatalf("closes %q", got)
		}
		good.CloseWrite()
		io.ReadAll(good)
		<-good.done
		if got := w.closes(); len(got) != 2 || got[1][:3] != "fin" {
			t.Fatalf("closes %q", got)
		}
	})
}

// First bytes that are held have a budget of their own: what is beyond it is denied, and given back at the end.
func TestHeldBytesLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("good.example"))
		w.asked[goodAddr.Addr()] = []string{"good.example"}
		w.servers[goodAddr] = echo
		slow := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xf0}, make([]byte, 16000)...) // a long hello that stops in the middle
		var flows []*program
		for range 1000 {
			p := w.connect(t.Context(), goodAddr)
			go p.Write(slow)
			flows = append(flows, p)
		}
		synctest.Wait()
		limited := 0
		for _, line := range w.connects() {
			if line == "deny limit  dns" || line == "deny limit good.example dns" {
				limited++
			}
		}
		if limited == 0 || limited == len(flows) {
			t.Fatalf("%d of %d flows were over the limit", limited, len(flows))
		}
		for _, p := range flows {
			p.Abort()
			<-p.done
		}
		if n := w.gate.Held(); n != 0 {
			t.Fatalf("%d octets are still counted", n)
		}
	})
}
