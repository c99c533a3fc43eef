package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// path is a network between two sockets that can be cut, and be slow.
type path struct {
	simnet.PerfectRouter
	cut atomic.Bool

	mu   sync.Mutex
	rate float64              // octets per second in each direction; 0 is no bound
	busy map[string]time.Time // until when packets are on their way to an address
}

// pathQueue is how long a packet may wait before a slow path.
const pathQueue = 50 * time.Millisecond

func (p *path) SendPacket(packet simnet.Packet) error {
	if p.cut.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 {
		return p.PerfectRouter.SendPacket(packet)
	}
	now := time.Now()
	free := p.busy[packet.To.String()]
	if free.Before(now) {
		free = now
	}
	if free.Sub(now) > pathQueue {
		return nil
	}
	free = free.Add(time.Duration(float64(len(packet.Data)) / p.rate * float64(time.Second)))
	p.busy[packet.To.String()] = free
	time.AfterFunc(free.Sub(now), func() { p.PerfectRouter.SendPacket(packet) })
	return nil
}

// simulated returns both ends of a connection over a path of 20 ms, in a bubble of simulated time.
func simulated(t *testing.T, c ...configs) (edge, client *quic.Conn, p *path) {
	t.Helper()
	p = &path{busy: map[string]time.Time{}}
	n := &simnet.Simnet{Router: p}
	settings := simnet.NodeBiDiLinkSettings{
		Downlink: simnet.LinkSettings{MTU: 1500}, Uplink: simnet.LinkSettings{MTU: 1500}, Latency: 10 * time.Millisecond,
	}
	a := n.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}, settings)
	b := n.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 40000}, settings)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	edge, client = connected(t, a, b, append(c, configs{})[0])
	return edge, client, p
}

// piped is a Handler whose destinations echo, without a network.
var piped = handler{
	dial: func(context.Context, tunnel.Open) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			io.Copy(b, b)
			b.Close()
		}()
		return a, nil
	},
	query: dialer.query,
}

var somewhere = tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.9:5432")}

// TestLoss: a path that is cut is noticed by both ends within the idle time, flows end with Lost, and nothing else does.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, p := simulated(t)
		e, c := joined(t, edge, client, piped)
		s, err := e.OpenStream(context.Background(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: somewhere.Addr})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // keepalives hold an idle session
		if e.Err() != nil || c.Err() != nil {
			t.Fatal("an idle session ended", e.Err(), c.Err())
		}
		p.cut.Store(true)
		time.Sleep(4 * time.Second)
		p.cut.Store(false) // short cuts are nothing
		time.Sleep(time.Minute)
		if e.Err() != nil || c.Err() != nil {
			t.Fatal("a cut of 4 s ended the session", e.Err(), c.Err())
		}
		p.cut.Store(true)
		start := time.Now()
		_, err = s.Read(make([]byte, 1))
		if took := time.Since(start); tunnel.CodeOf(err) != tunnel.Lost || took > 20*time.Second {
			t.Errorf("the flow ended with %v after %v", err, took)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v is no reset", err)
		}
		if _, err := s.Write([]byte("x")); tunnel.CodeOf(err) != tunnel.Lost {
			t.Errorf("writing: %v", err)
		}
		if _, err := d.Receive(make([]byte, 65507)); tunnel.CodeOf(err) != tunnel.Lost {
			t.Errorf("the UDP flow ended with %v", err)
		}
		<-e.Done()
		<-c.Done()
		if tunnel.CodeOf(e.Err()) != tunnel.Lost || tunnel.CodeOf(c.Err()) != tunnel.Lost {
			t.Errorf("the ends ended with %v, %v", e.Err(), c.Err())
		}
		if _, err := e.OpenStream(context.Background(), somewhere); tunnel.CodeOf(err) != tunnel.Lost {
			t.Errorf("opening after the end: %v", err)
		}
		if _, err := c.Ping(context.Background()); tunnel.CodeOf(err) != tunnel.Lost {
			t.Errorf("a ping after the end: %v", err)
		}
		s.Close()
		d.Close()
		synctest.Wait()
		nothingLeft(t, e, c)
	})
}

// upstream is a connection that notes how it was ended.
type upstream struct {
	net.Conn
	aborted atomic.Int64 // the code and one
}

func (u *upstream) CloseWrite() error                     { return u.Conn.Close() }
func (u *upstream) Abort(code tunnel.Code)                { u.aborted.Store(int64(code) + 1); u.Conn.Close() }
func (u *upstream) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }
func (u *upstream) Carried(int, int)                      {}

// TestLostUpstream: the Handler's connections hear that the tunnel was lost, so that the sockets of UDP flows may wait.
func TestLostUpstream(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		synctest.Test(t, func(t *testing.T) {
			var up *upstream
			edge, client, p := simulated(t)
			e, c := joined(t, edge, client, handler{dial: func(context.Context, tunnel.Open) (net.Conn, error) {
				a, b := net.Pipe()
				t.Cleanup(func() { b.Close() })
				up = &upstream{Conn: a}
				return up, nil
			}})
			var err error
			if network == "tcp" {
				_, err = e.OpenStream(context.Background(), somewhere)
			} else {
				_, err = e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: somewhere.Addr})
			}
			if err != nil {
				t.Fatal(err)
			}
			p.cut.Store(true)
			<-c.Done()
			synctest.Wait()
			if got := up.aborted.Load() - 1; tunnel.Code(got) != tunnel.Lost {
				t.Errorf("%s: the connection was ended with %v", network, tunnel.Code(got))
			}
		})
	}
}

// TestGreeting: what the ends say of themselves arrives, also later.
func TestGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		all := []wire.Route{{Suffix: "."}}
		changed := make(chan []wire.Route, 1)
		cfg := EdgeConfig{
			Session: "a1b2", RenewAfter: time.Hour, Routes: func(r []wire.Route) { changed <- r },
			Renew: func(csr []byte) ([]byte, error) {
				if string(csr) != "csr" {
					return nil, errors.New("/etc/weir/ca.key: permission denied")
				}
				return []byte("chain"), nil
			},
		}
		var e *Edge
		var both sync.WaitGroup
		both.Go(func() { e, _ = Accept(context.Background(), edge, who, cfg) })
		c, err := Connect(context.Background(), client, piped, ClientConfig{Generation: 7, Software: "weir", OS: "plan9", Routes: all})
		if err != nil {
			t.Fatal(err)
		}
		both.Wait()
		defer c.CloseWith(tunnel.OK, "")
		want := wire.Hello{Versions: []uint64{1}, Generation: 7, Software: "weir", OS: "plan9", Routes: all}
		if got := e.Hello(); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(e.Routes(), all) {
			t.Errorf("the edge heard %+v", got)
		}
		if w := c.Welcome(); w.Session != "a1b2" || w.Space != "default" || w.Client != "laptop" || w.RenewAfter != time.Hour || !w.Time.Equal(time.Now().Add(-10*time.Millisecond).Truncate(time.Millisecond)) {
			t.Errorf("the client heard %+v", w)
		}
		some := []wire.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
		c.SetRoutes(some)
		if got := <-changed; !reflect.DeepEqual(got, some) || !reflect.DeepEqual(e.Routes(), some) {
			t.Errorf("the edge heard of %v", got)
		}
		if chain, err := c.Renew(context.Background(), []byte("csr")); string(chain) != "chain" || err != nil {
			t.Errorf("renewed: %q, %v", chain, err)
		}
		var e2 *tunnel.Error
		if _, err := c.Renew(context.Background(), []byte("bad")); !errors.As(err, &e2) || e2.Text != "not renewed" {
			t.Errorf("not renewed: %v", err)
		}
		for _, l := range []*link{e.link, c.link} {
			if rtt, err := l.Ping(context.Background()); err != nil || rtt < 20*time.Millisecond || rtt > 100*time.Millisecond {
				t.Errorf("a ping took %v, %v", rtt, err)
			}
			if rtt, err := l.Probe(context.Background(), 100_000); err != nil || rtt < 20*time.Millisecond {
				t.Errorf("a probe took %v, %v", rtt, err)
			}
		}
	})
}

// TestSilence: an end that says nothing is waited for so long, and no longer.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		start := time.Now()
		if _, err := Accept(context.Background(), edge, who, EdgeConfig{}); tunnel.CodeOf(err) != tunnel.TimedOut || time.Since(start) != HandshakeTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		<-client.Context().Done()
		if got := ended(context.Cause(client.Context())); got.Code != tunnel.TimedOut {
			t.Errorf("the client heard %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, client, _ := simulated(t)
		start := time.Now()
		if _, err := Connect(context.Background(), client, piped, ClientConfig{}); tunnel.CodeOf(err) != tunnel.TimedOut || time.Since(start) != HandshakeTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestClosed: the reason for which one end closes is known at the other, also when it does so instead of a greeting.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		e, c := joined(t, edge, client, piped)
		e.CloseWith(tunnel.Revoked, "by the operator")
		<-c.Done()
		var got *tunnel.Error
		if !errors.As(c.Err(), &got) || got.Code != tunnel.Revoked || got.Text != "by the operator" {
			t.Errorf("the client heard %v", c.Err())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		edge.CloseWithError(quic.ApplicationErrorCode(tunnel.Revoked), "")
		if _, err := Connect(context.Background(), client, piped, ClientConfig{}); tunnel.CodeOf(err) != tunnel.Revoked {
			t.Errorf("the client heard %v", err)
		}
	})
}

// TestVersions: ends without a common version tell each other.
func TestVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		var err error
		var both sync.WaitGroup
		both.Go(func() { _, err = Accept(context.Background(), edge, who, EdgeConfig{}) })
		q, _ := client.OpenStream()
		q.Write(wire.AppendMessage([]byte{0}, &wire.Hello{Versions: []uint64{2, 3}}))
		both.Wait()
		<-client.Context().Done()
		if got := ended(context.Cause(client.Context())); got.Code != tunnel.Version || tunnel.CodeOf(err) != tunnel.Version {
			t.Errorf("the edge says %v, the client heard %v", err, got)
		}
	})
}

// TestDrain: whoever drains, flows that are open end in their own time, no new ones begin, and then the session is over.
func TestDrain(t *testing.T) {
	for _, by := range []string{"edge", "client"} {
		synctest.Test(t, func(t *testing.T) {
			edge, client, _ := simulated(t)
			e, c := joined(t, edge, client, piped)
			s, err := e.OpenStream(context.Background(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			drained := make(chan error, 1)
			go func() {
				if by == "edge" {
					drained <- e.Drain(context.Background(), wire.Drain{Text: "maintenance", ReconnectAfter: time.Second})
				} else {
					drained <- c.Drain(context.Background(), "the user stops")
				}
			}()
			time.Sleep(time.Second)
			if by == "edge" {
				<-c.Draining()
				if d := c.DrainInfo(); d.Text != "maintenance" || d.ReconnectAfter != time.Second || d.Deadline != defaultDrain || d.Code != tunnel.Draining {
					t.Errorf("the client heard %+v", d)
				}
			}
			if _, err := e.OpenStream(context.Background(), somewhere); tunnel.CodeOf(err) != tunnel.Draining {
				t.Errorf("%s drains, opening a flow: %v", by, err)
			}
			if _, _, err := e.Query(context.Background(), tunnel.Query{Message: make([]byte, 12)}); tunnel.CodeOf(err) != tunnel.Draining {
				t.Errorf("%s drains, a query: %v", by, err)
			}
			b := []byte("still there")
			s.Write(b)
			if _, err := io.ReadFull(s, b); err != nil || string(b) != "still there" {
				t.Errorf("%s drains, the flow says %q, %v", by, b, err)
			}
			time.Sleep(5 * time.Second)
			s.Close()
			if err := <-drained; err != nil || time.Since(start) > 7*time.Second {
				t.Errorf("%s drained after %v: %v", by, time.Since(start), err)
			}
			<-e.Done()
			<-c.Done()
			if tunnel.CodeOf(e.Err()) != tunnel.Draining || tunnel.CodeOf(c.Err()) != tunnel.Draining {
				t.Errorf("%s drained: %v, %v", by, e.Err(), c.Err())
			}
		})
	}
}

// TestDrainDeadline: flows that do not end are reset when the time is over.
func TestDrainDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		e, _ := joined(t, edge, client, piped)
		s, err := e.OpenStream(context.Background(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = e.Drain(context.Background(), wire.Drain{Deadline: 3 * time.Second})
		if tunnel.CodeOf(err) != tunnel.TimedOut || time.Since(start) != 3*time.Second {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		if _, err := s.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Lost {
			t.Errorf("the flow ended with %v", err)
		}
	})
}

// TestDrainLosesNothing: the last octets of flows that have ended are delivered before the session ends.
func TestDrainLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		var got atomic.Int64
		e, _ := joined(t, edge, client, handler{dial: func(context.Context, tunnel.Open) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				n, _ := io.Copy(io.Discard, b)
				got.Add(n)
				b.Close()
			}()
			return a, nil
		}})
		for range 10 {
			s, err := e.OpenStream(context.Background(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			s.Write(make([]byte, 100_000))
			s.Close()
		}
		if err := e.Drain(context.Background(), wire.Drain{}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got.Load() != 10*100_000 {
			t.Errorf("%d octets arrived", got.Load())
		}
	})
}

// raw is a control stream of a peer that is written by hand.
func raw(t *testing.T, client *quic.Conn, accept func()) *quic.Stream {
	t.Helper()
	var both sync.WaitGroup
	both.Go(accept)
	q, err := client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	q.Write(wire.AppendMessage([]byte{0}, &wire.Hello{Versions: []uint64{1}}))
	if _, err := handshake[*wire.Welcome](q); err != nil {
		t.Fatal(err)
	}
	both.Wait()
	return q
}

// TestHostileClient: what a client may not do ends its session with a reason.
func TestHostileClient(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(q *quic.Stream, conn *quic.Conn)
		code tunnel.Code
	}{
		{"a flood of pings", func(q *quic.Stream, _ *quic.Conn) {
			for n := range uint64(2 * messageBurst) {
				q.Write(wire.AppendMessage(nil, &wire.Ping{Number: n}))
			}
		}, tunnel.Limit},
		{"a flood of grease", func(q *quic.Stream, _ *quic.Conn) {
			for range 2 * messageBurst {
				q.Write(grease())
			}
		}, tunnel.Limit},
		{"a message of a gigabyte", func(q *quic.Stream, _ *quic.Conn) { q.Write(wire.AppendVarint([]byte{1}, 1<<30)) }, tunnel.Malformed},
		{"a message of the edge's", func(q *quic.Stream, _ *quic.Conn) {
			q.Write(wire.AppendMessage(nil, &wire.Renewed{}))
		}, tunnel.Malformed},
		{"the end of the control stream", func(q *quic.Stream, _ *quic.Conn) { q.Close() }, tunnel.Malformed},
		{"a reset of the control stream", func(q *quic.Stream, _ *quic.Conn) { q.CancelWrite(1) }, tunnel.Reset},
		{"streams that only an edge opens", func(_ *quic.Stream, conn *quic.Conn) {
			for range maxViolations {
				q, err := conn.OpenStreamSync(conn.Context())
				if err != nil {
					return
				}
				q.Write(wire.AppendHeader(nil, wire.Header{Kind: wire.TCP, Open: somewhere}))
				q.Close()
				io.Copy(io.Discard, q)
			}
		}, tunnel.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge, client, _ := simulated(t)
				var e *Edge
				q := raw(t, client, func() { e, _ = Accept(context.Background(), edge, who, EdgeConfig{}) })
				go c.do(q, client)
				select {
				case <-e.Done():
				case <-time.After(time.Minute):
					t.Fatal("the session goes on")
				}
				<-client.Context().Done()
				if got := ended(context.Cause(client.Context())); got.Code != c.code {
					t.Errorf("the client heard %v", got)
				}
			})
		})
	}
}

// TestStuckControl: a client that never reads its control stream does not hold up the edge.
func TestStuckControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configs{}.orDefault()
		c.client.InitialStreamReceiveWindow, c.client.MaxStreamReceiveWindow = 256, 256
		edge, client, _ := simulated(t, c)
		var e *Edge
		q := raw(t, client, func() { e, _ = Accept(context.Background(), edge, who, EdgeConfig{}) })
		for n := range uint64(200) {
			q.Write(wire.AppendMessage(nil, &wire.Ping{Number: wire.MaxVarint - n}))
		}
		start := time.Now()
		<-e.Done()
		if took := time.Since(start); took > 2*headerTimeout+time.Second {
			t.Errorf("the edge was stuck for %v", took)
		}
		<-client.Context().Done()
		if got := ended(context.Cause(client.Context())); got.Code != tunnel.Lost {
			t.Errorf("the client heard %v", got)
		}
	})
}

// TestHostileEdge: a client lives through streams that break the rules, up to a number, and slow headers cost it nothing.
func TestHostileEdge(t *testing.T) {
	long := wire.AppendVarint([]byte{byte(wire.TCP)}, 1<<40)
	for _, c := range []struct {
		name  string
		write []byte
		ends  bool
		code  tunnel.Code
	}{
		{"an unknown kind", wire.AppendVarint(wire.AppendVarint(nil, 77), 0), false, tunnel.Malformed},
		{"another control stream", []byte{0, 0}, false, tunnel.Malformed},
		{"a header that is too long", long, true, tunnel.Malformed},
		{"a flow without an address", []byte{byte(wire.TCP), 0}, true, tunnel.Malformed},
		{"a header that does not end", []byte{byte(wire.TCP), 50, 1}, false, tunnel.TimedOut},
		{"a query that does not end", append(wire.AppendHeader(nil, wire.Header{Kind: wire.DNS}), 0, 100, 1), false, tunnel.TimedOut},
		{"a query of 3 octets", append(wire.AppendHeader(nil, wire.Header{Kind: wire.DNS}), 0, 3, 1, 2, 3), false, tunnel.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge, client, _ := simulated(t)
				var cl *Client
				var both sync.WaitGroup
				both.Go(func() { cl, _ = Connect(context.Background(), client, piped, ClientConfig{}) })
				control, err := edge.AcceptStream(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				control.Write(wire.AppendMessage(nil, &wire.Welcome{Version: 1}))
				both.Wait()
				for n := range maxViolations {
					q, err := edge.OpenStreamSync(edge.Context())
					if err != nil {
						break
					}
					start := time.Now()
					q.Write(c.write)
					_, err = q.Read(make([]byte, 1))
					var reset *quic.StreamError
					if !errors.As(err, &reset) && !c.ends || reset != nil && tunnel.Code(reset.ErrorCode) != c.code {
						t.Fatalf("stream %d ended with %v", n, err)
					}
					if took := time.Since(start); took > headerTimeout+time.Second {
						t.Errorf("a stream ended after %v", took)
					}
					q.Close()
				}
				time.Sleep(time.Second)
				if closed := cl.Err() != nil; closed != c.ends {
					t.Errorf("after %d streams the session has ended: %v", maxViolations, cl.Err())
				}
				cl.CloseWith(tunnel.OK, "")
			})
		})
	}
}

// TestUnknownDatagrams: datagrams of no flow, of a flow that has ended and without a form are dropped, and counted.
func TestUnknownDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		e, c := joined(t, edge, client, piped)
		d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: somewhere.Addr})
		if err != nil {
			t.Fatal(err)
		}
		id := d.(*datagrams).id
		d.Close()
		time.Sleep(time.Second)
		for _, b := range [][]byte{
			append(wire.AppendDatagramHeader(nil, id), "late"...), append(wire.AppendDatagramHeader(nil, 4001), "never"...),
			{}, {0x40}, wire.AppendVarint(wire.AppendVarint(nil, id), 7),
		} {
			edge.SendDatagram(b)
			client.SendDatagram(b)
		}
		time.Sleep(time.Second)
		for name, x := range map[string]*exchange{"edge": e.exchange, "client": c.exchange} {
			if u, m := x.unknown.Load(), x.malformed.Load(); u != 3 || m != 2 {
				t.Errorf("the %s counted %d unknown and %d malformed", name, u, m)
			}
		}
		if e.Err() != nil || c.Err() != nil {
			t.Error("the session has ended", e.Err(), c.Err())
		}
	})
}

// TestTooManyFlows: an edge that has used up the streams of a client fails soon, and can go on when one has ended.
func TestTooManyFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		e, c := joined(t, edge, client, piped)
		var all []tunnel.Stream
		for n := range MaxFlows {
			s, err := e.OpenStream(context.Background(), somewhere)
			if err != nil {
				t.Fatal(n, err)
			}
			all = append(all, s)
		}
		start := time.Now()
		if _, err := e.OpenStream(context.Background(), somewhere); tunnel.CodeOf(err) != tunnel.Limit || time.Since(start) != creditTimeout {
			t.Errorf("one more after %v: %v", time.Since(start), err)
		}
		if n := e.Stats().Flows; n != MaxFlows {
			t.Errorf("%d flows are counted", n)
		}
		for _, s := range all {
			s.Close()
		}
		time.Sleep(time.Second)
		if s, err := e.OpenStream(context.Background(), somewhere); err != nil {
			t.Error(err)
		} else {
			s.Close()
		}
		time.Sleep(time.Second)
		nothingLeft(t, e, c)
	})
}

// TestQUICConfig: the parameters that the specification speaks of.
func TestQUICConfig(t *testing.T) {
	for _, c := range []struct {
		role      Role
		transport string
		ipv6      bool
		want      string
	}{
		{EdgeRole, QUIC, false, "8 -1 1200 false"}, {EdgeRole, QUIC, true, "8 -1 1200 false"},
		{ClientRole, QUIC, false, "4096 -1 1252 false"}, {ClientRole, WebSocket, true, "4096 -1 1452 true"},
	} {
		q := QUICConfig(c.role, c.transport, c.ipv6)
		got := fmt.Sprint(q.MaxIncomingStreams, q.MaxIncomingUniStreams, q.InitialPacketSize, q.DisablePathMTUDiscovery)
		if got != c.want || q.Allow0RTT || !q.EnableDatagrams || !q.EnableStreamResetPartialDelivery || q.MaxIdleTimeout != 15*time.Second || q.KeepAlivePeriod != 5*time.Second {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// TestSlowCapsule: a client that begins a datagram on a flow's stream and does not go on ends the flow, and holds no buffer for
// longer.
func TestSlowCapsule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		var e *Edge
		raw(t, client, func() { e, _ = Accept(context.Background(), edge, who, EdgeConfig{}) })
		go func() {
			q, err := client.AcceptStream(client.Context())
			if err != nil {
				return
			}
			wire.ReadHeader(q)
			q.Write(wire.AppendStatus(nil, wire.Status{}))
			q.Write([]byte{0x00, 0x80, 0x00, 0xff, 0x00}) // a capsule of 65280 octets, and no more of it
		}()
		o := somewhere
		o.Network = "udp"
		d, err := e.OpenDatagrams(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := d.Receive(make([]byte, 65535)); tunnel.CodeOf(err) != tunnel.TimedOut {
			t.Errorf("the flow ended with %v", err)
		}
		if took := time.Since(begun); took > capsuleTimeout+time.Second {
			t.Errorf("it took %v", took)
		}
		e.CloseWith(tunnel.OK, "")
	})
}
