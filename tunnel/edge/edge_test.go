package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/websocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to come.
const patience = 10 * time.Second

// testEdge is an edge on the loopback with keys of its own.
type testEdge struct {
	*Edge
	store *creds.Store

	mu      sync.Mutex
	changes []Change
}

func newTestEdge(t testing.TB) *testEdge {
	t.Helper()
	store, err := creds.OpenStore(creds.StoreConfig{Dir: t.TempDir() + "/edge", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	e := &testEdge{store: store}
	e.listen(t, "127.0.0.1:0")
	return e
}

func (e *testEdge) listen(t testing.TB, addr string) {
	t.Helper()
	udp, tcp, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	e.Edge, err = New(Config{UDP: udp, TCP: tcp, Store: e.store, Changed: func(c Change) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changes = append(e.changes, c)
	}})
	if err != nil {
		t.Fatal(err)
	}
	edge := e.Edge
	t.Cleanup(func() { edge.Close() })
}

// reasons are why sessions ended so far.
func (e *testEdge) reasons() (list []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.changes {
		if !c.Up {
			list = append(list, c.Reason)
		}
	}
	return list
}

// enrol makes a client of a space.
func (e *testEdge) enrol(t testing.TB, space, name string) *creds.Client {
	t.Helper()
	token, err := e.store.NewToken(creds.TokenRequest{Space: space})
	if err != nil {
		t.Fatal(err)
	}
	tr := dialer(t)
	conn, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), creds.EnrollTLS(token, nil), session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := creds.Enroll(t.Context(), conn, creds.EnrollRequest{Token: token, Name: name, ClientConfig: creds.ClientConfig{Dir: t.TempDir() + "/client"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Client
}

func dialer(t testing.TB) *quic.Transport {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: udp}
	t.Cleanup(func() { tr.Close(); udp.Close() })
	return tr
}

// laptop is a client's process.
type laptop struct {
	*session.Client
	tr *quic.Transport
}

// connect brings a client in. Its handler dials what it is asked for, if that is on the loopback.
func (e *testEdge) connect(t testing.TB, c *creds.Client, cfg session.ClientConfig, h tunnel.Handler) *laptop {
	t.Helper()
	before := e.Counters().Joined.Load()
	l, err := e.dial(t, c, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the client to be known", func() bool { return e.Counters().Joined.Load() > before })
	return l
}

func (e *testEdge) dial(t testing.TB, c *creds.Client, cfg session.ClientConfig, h tunnel.Handler) (*laptop, error) {
	t.Helper()
	tr := dialer(t)
	cfg.Transport = session.QUIC
	conn, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), c.TLS(), session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		return nil, err
	}
	return e.greet(t, tr, conn, cfg, h)
}

func (e *testEdge) greet(t testing.TB, tr *quic.Transport, conn *quic.Conn, cfg session.ClientConfig, h tunnel.Handler) (*laptop, error) {
	s, err := session.Connect(t.Context(), conn, h, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { s.CloseWith(tunnel.OK, "") })
	return &laptop{s, tr}, nil
}

// wait waits for something that has to happen.
func wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// question is as long as the shortest DNS message.
var question = []byte("who are you?")

// handler is a client's own doing.
type handler struct {
	name  string // what its answers to DNS questions begin with
	dial  func(ctx context.Context, o tunnel.Open) (net.Conn, error)
	asked func(tunnel.Open)
}

func (h *handler) Dial(ctx context.Context, o tunnel.Open) (net.Conn, error) {
	if h.asked != nil {
		h.asked(o)
	}
	if h.dial != nil {
		return h.dial(ctx, o)
	}
	var d net.Dialer
	return d.DialContext(ctx, o.Network, o.Addr.String())
}

func (h *handler) Query(_ context.Context, q tunnel.Query) ([]byte, error) {
	return append([]byte(h.name+" "), q.Message...), nil
}

// echo is a server on the loopback that sends back what it gets.
func echo(t testing.TB) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func udpEcho(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func owner(space string) tunnel.Owner {
	return tunnel.Owner{Space: space, App: "app", Sandbox: "7f3a9c"}
}

// TestFlow carries octets and datagrams from a sandbox to its client, whose answer to a question comes back.
func TestFlow(t *testing.T) {
	e := newTestEdge(t)
	opened := make(chan tunnel.Open, 2)
	e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{name: "laptop", asked: func(o tunnel.Open) { opened <- o }})
	box := e.Sandbox(owner("acme"))
	s, err := box.OpenStream(t.Context(), tunnel.Open{Owner: owner("another"), Flow: "7f3a9c-1", Network: "tcp", Addr: echo(t), Names: []string{"db.example"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if o := <-opened; o.Flow != "7f3a9c-1" || o.App != "app" || o.Space == "another" {
		t.Errorf("the client was asked for %+v", o)
	}
	io.WriteString(s, "hello")
	s.CloseWrite()
	if b, err := io.ReadAll(s); string(b) != "hello" || err != nil || s.By().Client != "laptop" {
		t.Errorf("%q, %v came by %v", b, err, s.By())
	}
	d, err := box.OpenDatagrams(t.Context(), tunnel.Open{Network: "udp", Addr: udpEcho(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.Send([]byte("ping"))
	b := make([]byte, 65507)
	if n, err := d.Receive(b); string(b[:n]) != "ping" || err != nil {
		t.Errorf("%q, %v came", b[:n], err)
	}
	answer, by, err := box.Query(t.Context(), tunnel.Query{Message: question})
	if string(answer) != "laptop who are you?" || err != nil || by.Client != "laptop" {
		t.Errorf("%q, %v by %v", answer, err, by)
	}
}

// TestSpaces: two spaces have a client each that goes by the same name; a sandbox reaches its own, and none of the other's
// whatever it asks for.
func TestSpaces(t *testing.T) {
	e := newTestEdge(t)
	e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{name: "acme"})
	e.connect(t, e.enrol(t, "other", "laptop"), session.ClientConfig{}, &handler{name: "other"})
	e.connect(t, e.enrol(t, "other", "desktop"), session.ClientConfig{}, &handler{name: "desktop"})
	for _, space := range []string{"acme", "other"} {
		answer, by, err := e.Sandbox(owner(space)).Query(t.Context(), tunnel.Query{Via: "laptop", Owner: owner("acme"), Message: question})
		if string(answer) != space+" who are you?" || by != (tunnel.Identity{Space: space, Client: "laptop"}) || err != nil {
			t.Errorf("space %s: %q by %v, %v", space, answer, by, err)
		}
	}
	for _, q := range []tunnel.Query{{Via: "desktop", Message: question}, {Via: "other/desktop", Message: question}} {
		if _, _, err := e.Sandbox(owner("acme")).Query(t.Context(), q); tunnel.CodeOf(err) != tunnel.NoClient {
			t.Errorf("via %s of another space: %v", q.Via, err)
		}
	}
	if _, err := e.Sandbox(owner("third")).OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)}); tunnel.CodeOf(err) != tunnel.NoClient {
		t.Errorf("in a space without a client: %v", err)
	}
}

// TestRevoked: a client that is revoked loses its session within a second and its flows with it, and does not come in again.
func TestRevoked(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	l := e.connect(t, c, session.ClientConfig{}, &handler{})
	box := e.Sandbox(owner("acme"))
	s, err := box.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := time.Now()
	if err := e.store.Revoke(c.Identity()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Revoked && tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the flow ended with %v", err)
	}
	<-l.Done()
	if took := time.Since(at); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if tunnel.CodeOf(l.Err()) != tunnel.Revoked {
		t.Errorf("the client was told %v", l.Err())
	}
	wait(t, "the end to be told", func() bool { return slices.Equal(e.reasons(), []string{"revoked"}) })
	if l, err := e.dial(t, c, session.ClientConfig{}, &handler{}); err == nil {
		<-l.Done()
		if tunnel.CodeOf(l.Err()) == tunnel.OK {
			t.Error("it came in again")
		}
	}
	if n := e.Counters().Joined.Load(); n != 1 {
		t.Errorf("%d sessions were let in", n)
	}
	at = time.Now()
	if _, err := box.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)}); tunnel.CodeOf(err) != tunnel.NoClient || time.Since(at) > time.Second {
		t.Errorf("an open ended with %v after %v: nobody is going to come back", err, time.Since(at))
	}
}

// TestTwoProcesses: of two processes of one client the later one wins, whichever comes first.
func TestTwoProcesses(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	first := e.connect(t, c, session.ClientConfig{Generation: 1}, &handler{name: "first"})
	second := e.connect(t, c, session.ClientConfig{Generation: 2}, &handler{name: "second"})
	box := e.Sandbox(owner("acme"))
	if answer, _, err := box.Query(t.Context(), tunnel.Query{Message: question}); string(answer) != "second who are you?" {
		t.Errorf("%q, %v answered", answer, err)
	}
	<-first.Done()
	if tunnel.CodeOf(first.Err()) != tunnel.Superseded {
		t.Errorf("the first one was told %v", first.Err())
	}
	old, err := e.dial(t, c, session.ClientConfig{Generation: 1}, &handler{name: "old"})
	if err == nil {
		<-old.Done()
		err = old.Err()
	}
	if tunnel.CodeOf(err) != tunnel.Superseded {
		t.Errorf("an earlier process was told %v", err)
	}
	select {
	case <-second.Done():
		t.Error("the second one has ended")
	default:
	}
}

// TestMakeBeforeBreak: a process that connects once more, by another way, has new flows on its latest session, and those that
// it has stay; when the latest ends the other one serves again.
func TestMakeBeforeBreak(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	e.connect(t, c, session.ClientConfig{Generation: 7}, &handler{name: "one"})
	box := e.Sandbox(owner("acme"))
	s, err := box.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	two := e.connect(t, c, session.ClientConfig{Generation: 7}, &handler{name: "two"})
	ask := func() string {
		b, _, err := box.Query(t.Context(), tunnel.Query{Message: question})
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if got := ask(); got != "two who are you?" {
		t.Errorf("%q answered", got)
	}
	io.WriteString(s, "x")
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Errorf("the flow on the first session: %v", err)
	}
	two.CloseWith(tunnel.OK, "")
	wait(t, "the end of the second", func() bool { return e.Counters().Sessions.Load() == 1 })
	if got := ask(); got != "one who are you?" {
		t.Errorf("%q answered", got)
	}
}

// TestPark: an open waits for a client that went just now, and finds it.
func TestPark(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	e.connect(t, c, session.ClientConfig{}, &handler{name: "one"}).CloseWith(tunnel.OK, "")
	wait(t, "its end", func() bool { return e.Counters().Sessions.Load() == 0 })
	answer := make(chan string)
	go func() {
		b, _, err := e.Sandbox(owner("acme")).Query(context.Background(), tunnel.Query{Message: question})
		if err != nil {
			t.Error(err)
		}
		answer <- string(b)
	}()
	wait(t, "an open that waits", func() bool {
		e.registry.mu.Lock()
		defer e.registry.mu.Unlock()
		return e.registry.space("acme").parked == 1
	})
	e.connect(t, c, session.ClientConfig{}, &handler{name: "two"})
	if got := <-answer; got != "two who are you?" {
		t.Errorf("%q answered", got)
	}
}

// TestRehome: a UDP flow goes on when its client comes again.
func TestRehome(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	one := e.connect(t, c, session.ClientConfig{}, &handler{})
	to := udpEcho(t)
	d, err := e.Sandbox(owner("acme")).OpenDatagrams(t.Context(), tunnel.Open{Network: "udp", Addr: to})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make(chan string, 100)
	go func() {
		defer close(got)
		b := make([]byte, 65507)
		for {
			n, err := d.Receive(b)
			if err != nil {
				return
			}
			got <- string(b[:n])
		}
	}()
	one.CloseWith(tunnel.OK, "")
	e.connect(t, c, session.ClientConfig{}, &handler{})
	wait(t, "the flow to move", func() bool { return e.Counters().Rehomed.Load() == 1 })
	for {
		d.Send([]byte("after"))
		select {
		case s := <-got:
			if s != "after" {
				t.Errorf("%q came", s)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestDrain: an edge that ends tells its clients when to come again, opens nothing, and waits for the flows that there are.
func TestDrain(t *testing.T) {
	e := newTestEdge(t)
	l := e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{})
	box := e.Sandbox(owner("acme"))
	s, err := box.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		e.Drain(context.Background(), 1500*time.Millisecond)
	}()
	<-l.Draining()
	if d := l.DrainInfo(); d.Code != tunnel.Draining || d.ReconnectAfter != 1500*time.Millisecond {
		t.Errorf("the client was told %+v", d)
	}
	if _, err := box.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)}); tunnel.CodeOf(err) != tunnel.NoClient && tunnel.CodeOf(err) != tunnel.Draining {
		t.Errorf("an open while draining: %v", err)
	}
	io.WriteString(s, "last words")
	s.CloseWrite()
	if b, err := io.ReadAll(s); string(b) != "last words" || err != nil {
		t.Errorf("%q, %v came", b, err)
	}
	s.Close()
	<-drained
	<-l.Done()
}

// TestRestart: an edge that was killed and comes again on the same port tells its clients within a round trip that it does not
// know them any more.
func TestRestart(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	addr := e.Addr().String()
	relay := newForwarder(t, e.Addr())
	l := e.connectVia(t, relay.addr, c, &handler{})
	e.cfg.UDP.Close() // nothing that the edge says when it is closed leaves: it was killed
	e.Edge.Close()
	e.listen(t, addr)
	at := time.Now()
	if _, err := l.Ping(t.Context()); err == nil {
		t.Error("a ping was answered")
	}
	<-l.Done()
	var reset *quic.StatelessResetError
	if took := time.Since(at); took > 2*time.Second || !errors.As(context.Cause(l.conn.Context()), &reset) {
		t.Errorf("it took %v, and was %v", took, context.Cause(l.conn.Context()))
	}
	e.connect(t, c, session.ClientConfig{}, &handler{})
}

// TestWebSocket: the same by WebSocket; its end is the session's end.
func TestWebSocket(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	addr := &url.URL{Scheme: "https", Host: e.Addr().String()}
	ws, err := websocket.Dial(t.Context(), websocket.DialConfig{URL: addr, Trust: func(tls.ConnectionState) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: ws}
	conn, err := tr.Dial(t.Context(), websocket.Addr(addr.String()), c.TLS(), session.QUICConfig(session.ClientRole, session.WebSocket, false))
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.greet(t, tr, conn, session.ClientConfig{Transport: session.WebSocket}, &handler{name: "ws"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.CloseWith(tunnel.OK, "")
	wait(t, "the client to be known", func() bool { return len(e.Clients()) == 1 })
	if got := e.Clients()[0]; got.Transport != "websocket" || netip.MustParseAddrPort(got.Remote).Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the edge knows %+v", got)
	}
	local := websocket.Session{Local: unmapped(e.Edge.registry.of(c.Identity())[0].Session.(*session.Edge).RemoteAddr())}
	if !e.knownWS(local) {
		t.Error("whose WebSocket it is is not known, and it would end")
	}
	s, err := e.Sandbox(owner("acme")).OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(s, "hello")
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	at := time.Now()
	ws.Close()
	if _, err := s.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the flow ended with %v", err)
	}
	if took := time.Since(at); took > 5*time.Second {
		t.Errorf("it took %v, as long as the idle time", took)
	}
	wait(t, "the WebSocket to be nobody's", func() bool { return !e.knownWS(local) })
	tr.Close()
}
