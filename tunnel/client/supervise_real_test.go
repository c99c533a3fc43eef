//go:build linux

package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	hosted "github.com/weir-dev/weir/tunnel/edge"
	"github.com/weir-dev/weir/tunnel/session"
)

// patience is how long a test waits for what has to come.
const patience = time.Minute

// street is a real edge with a forwarder in front of its UDP and TCP port, which can be shut and moved.
type street struct {
	edge  *hosted.Edge
	store *creds.Store
	addr  string // of the edge behind
	url   *url.URL

	udpShut atomic.Bool
	largest atomic.Int64 // octets of a UDP payload that pass; 0 for any
	front   *net.UDPConn
	mu      sync.Mutex
	backs   map[netip.AddrPort]*net.UDPConn // towards the edge, one for each socket of a client, as of a NAT
}

func newStreet(t *testing.T) *street {
	t.Helper()
	store, err := creds.OpenStore(creds.StoreConfig{Dir: t.TempDir() + "/edge", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &street{store: store, addr: "127.0.0.1:0"}
	s.open(t)
	front, tcp, err := hosted.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.front = front
	s.url = &url.URL{Scheme: "https", Host: tcp.Addr().String()}
	s.backs = map[netip.AddrPort]*net.UDPConn{}
	t.Cleanup(func() {
		front.Close()
		tcp.Close()
		s.rebind()
	})
	go s.forwardUDP()
	go s.forwardTCP(tcp)
	return s
}

// open starts the edge, on the same port as before.
func (s *street) open(t *testing.T) {
	t.Helper()
	udp, tcp, err := hosted.Listen(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = udp.LocalAddr().String()
	e, err := hosted.New(hosted.Config{UDP: udp, TCP: tcp, Store: s.store})
	if err != nil {
		t.Fatal(err)
	}
	s.edge = e
	t.Cleanup(func() { e.Close() })
}

// rebind has the forwarder forget its ports towards the edge, as a NAT does.
func (s *street) rebind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for client, back := range s.backs {
		back.Close()
		delete(s.backs, client)
	}
}

// backFor is the port for a client's socket.
func (s *street) backFor(client netip.AddrPort) *net.UDPConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if back := s.backs[client]; back != nil {
		return back
	}
	to, _ := net.ResolveUDPAddr("udp", s.addr)
	back, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return nil
	}
	back.SetReadBuffer(4 << 20)
	s.backs[client] = back
	go func() {
		b := make([]byte, 65536)
		for {
			n, err := back.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && s.passes(n) {
				s.front.WriteToUDPAddrPort(b[:n], client)
			}
		}
	}()
	return back
}

func (s *street) passes(n int) bool {
	largest := s.largest.Load()
	return !s.udpShut.Load() && (largest == 0 || int64(n) <= largest)
}

func (s *street) forwardUDP() {
	s.front.SetReadBuffer(4 << 20)
	b := make([]byte, 65536)
	for {
		n, from, err := s.front.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if back := s.backFor(from); back != nil && s.passes(n) {
			back.Write(b[:n])
		}
	}
}

func (s *street) forwardTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", s.addr)
		if err != nil {
			c.Close()
			continue
		}
		for _, p := range [][2]net.Conn{{c, up}, {up, c}} {
			go func() {
				io.Copy(p[0], p[1])
				p[0].Close()
				p[1].Close()
			}()
		}
	}
}

// enrol makes a client of the space acme.
func (s *street) enrol(t *testing.T) *creds.Client {
	t.Helper()
	token, err := s.store.NewToken(creds.TokenRequest{Space: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(s.addr)
	pair, err := openUDP(at.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer pair.close()
	conn, err := pair.transport.Dial(t.Context(), net.UDPAddrFromAddrPort(at), creds.EnrollTLS(token, nil), session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := creds.Enroll(t.Context(), conn, creds.EnrollRequest{Token: token, Name: "laptop", ClientConfig: creds.ClientConfig{Dir: t.TempDir() + "/client"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Client
}

// anyDial dials whatever it is asked for.
type anyDial struct{}

func (anyDial) Dial(ctx context.Context, o tunnel.Open) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, o.Network, o.Addr.String())
}

func (anyDial) Query(context.Context, tunnel.Query) ([]byte, error) {
	return nil, tunnel.Errorf(tunnel.NameFailed, "")
}

// resident is a supervisor that runs for real, on a network whose address the test says.
type resident struct {
	*Supervisor
	source atomic.Value // netip.Addr
	result chan error
	stop   context.CancelFunc

	mu      sync.Mutex
	reasons []string // of all states so far
}

// said counts the states so far that had a reason with text in it.
func (r *resident) said(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, reason := range r.reasons {
		if strings.Contains(reason, text) {
			n++
		}
	}
	return n
}

func (s *street) run(t *testing.T, c Credentials, only string) *resident {
	t.Helper()
	r := &resident{result: make(chan error, 1)}
	r.source.Store(home)
	var err error
	r.Supervisor, err = NewSupervisor(SupervisorConfig{Edge: s.url, Credentials: c, Handler: anyDial{}, Transport: only,
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
		Report: func(s State) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.reasons = append(r.reasons, s.Reason)
		}})
	if err != nil {
		t.Fatal(err)
	}
	r.parts.source = func(netip.AddrPort) netip.Addr { return r.source.Load().(netip.Addr) }
	r.parts.changes = nil
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	ended := make(chan struct{})
	go func() {
		r.result <- r.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

// comes waits for a transport.
func (r *resident) comes(t *testing.T, transport string) {
	t.Helper()
	until(t, fmt.Sprintf("a session by %s", transport), func() bool {
		s := r.State()
		return s.Phase == Connected && s.Transport == transport
	})
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// echoes is a server that sends back what it gets.
func echoes(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// talk is a flow through the tunnel that sends and takes back, with sums over both.
type talk struct {
	tunnel.Stream
	sent, got [32]byte
	gone      chan struct{} // closed when all is sent
	back      chan error
	octets    atomic.Int64
}

// begin opens a flow and sends n octets in pieces until they have all come back.
func (s *street) begin(t *testing.T, n int64) *talk {
	t.Helper()
	box := s.edge.Sandbox(tunnel.Owner{Space: "acme", App: "app", Sandbox: "7f3a9c"})
	stream, err := box.OpenStream(t.Context(), tunnel.Open{Flow: "7f3a9c-1", Network: "tcp", Addr: echoes(t)})
	if err != nil {
		t.Fatal(err)
	}
	k := &talk{Stream: stream, gone: make(chan struct{}), back: make(chan error, 1)}
	t.Cleanup(func() { stream.Close() })
	go func() {
		sum := sha256.New()
		io.Copy(io.MultiWriter(stream, sum), io.LimitReader(rand.NewChaCha8([32]byte{}), n))
		stream.CloseWrite()
		copy(k.sent[:], sum.Sum(nil))
		close(k.gone)
	}()
	go func() {
		sum := sha256.New()
		b := make([]byte, 64<<10)
		for {
			m, err := stream.Read(b)
			sum.Write(b[:m])
			if k.octets.Add(int64(m)); err != nil {
				if err == io.EOF {
					err = nil
				}
				copy(k.got[:], sum.Sum(nil))
				k.back <- err
				return
			}
		}
	}()
	return k
}

// ends waits for the end of a flow and holds both sums together.
func (k *talk) ends(t *testing.T, n int64) {
	t.Helper()
	defer k.Close()
	select {
	case err := <-k.back:
		<-k.gone
		if err != nil || k.octets.Load() != n || k.sent != k.got {
			t.Errorf("%d of %d octets came back, %v; the same: %v", k.octets.Load(), n, err, k.sent == k.got)
		}
	case <-time.After(patience):
		t.Errorf("%d of %d octets came back, and no more", k.octets.Load(), n)
	}
}

const talkSize = 12 << 20

// TestMoves: a transfer goes on, whole, while a NAT gives the session other ports and the session moves to other sockets. On a
// machine that is too busy to answer in time it may get a successor instead, but not each time.
func TestMoves(t *testing.T) {
	s := newStreet(t)
	r := s.run(t, s.enrol(t), "")
	r.comes(t, session.QUIC)
	k := s.begin(t, talkSize)
	until(t, "the transfer to begin", func() bool { return k.octets.Load() > 0 })
	s.rebind()
	for i := byte(0); r.Moves() == 0 && i < 3; i++ {
		r.source.Store(netip.AddrFrom4([4]byte{203, 0, 113, i}))
		failed := r.said("cannot follow")
		until(t, "a move", func() bool { return r.Moves() > 0 || r.said("cannot follow") > failed })
	}
	if r.Moves() == 0 {
		t.Error("the session never moved, it only got successors")
	}
	k.ends(t, talkSize)
}

// TestAround: with UDP shut WebSocket carries; once it is open, and the network another, QUIC does, and the flow that began on
// WebSocket goes on there to its end.
func TestAround(t *testing.T) {
	s := newStreet(t)
	c := s.enrol(t)
	s.udpShut.Store(true)
	r := s.run(t, c, "")
	r.comes(t, session.WebSocket)
	k := s.begin(t, talkSize)
	until(t, "the transfer to begin", func() bool { return k.octets.Load() > 0 })
	s.udpShut.Store(false)
	r.source.Store(cafe)
	r.comes(t, session.QUIC)
	k.ends(t, talkSize)
	s.begin(t, 1000).ends(t, 1000)
	until(t, "the old session to end", func() bool { return s.edge.Counters().Sessions.Load() == 1 })
}

// TestRestart: an edge that was started again says so at the first packet, and the client is back at once. On a machine that is
// so busy that no packet leaves within the idle time the client is back as well, but for another reason: then it is tried again.
func TestRestart(t *testing.T) {
	s := newStreet(t)
	r := s.run(t, s.enrol(t), "")
	r.comes(t, session.QUIC)
	for range 5 {
		s.udpShut.Store(true) // nothing that it says in farewell arrives
		s.edge.Close()
		s.open(t)
		s.rebind() // nor later
		s.udpShut.Store(false)
		until(t, "the new edge to know the client", func() bool { return s.edge.Counters().Joined.Load() == 1 })
		s.begin(t, 1000).ends(t, 1000)
		if r.said("has started again") > 0 {
			return
		}
	}
	t.Errorf("it was no stateless reset: %q", r.reasons)
}

// TestShrinks: a path that was found to take large packets, and takes them no more, costs the session its flows, and no more
// than that: there is another one soon, and the old one, on which small packets still pass, is ended.
func TestShrinks(t *testing.T) {
	s := newStreet(t)
	r := s.run(t, s.enrol(t), session.QUIC)
	r.comes(t, session.QUIC)
	s.begin(t, talkSize).ends(t, talkSize) // the path's size is known then
	k := s.begin(t, 1<<40)
	until(t, "a transfer", func() bool { return k.octets.Load() > 0 })
	s.largest.Store(1300)
	until(t, "another session", func() bool { return s.edge.Counters().Joined.Load() > 1 })
	r.comes(t, session.QUIC)
	s.begin(t, talkSize/16).ends(t, talkSize/16)
	until(t, "the end of the old session", func() bool { return s.edge.Counters().Sessions.Load() == 1 })
}

// TestRevokedWhileConnected: the client ends, and says why.
func TestRevokedWhileConnected(t *testing.T) {
	s := newStreet(t)
	r := s.run(t, s.enrol(t), "")
	r.comes(t, session.QUIC)
	if err := s.store.Revoke(tunnel.Identity{Space: "acme", Client: "laptop"}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.result:
		if !errors.Is(err, creds.ErrRejected) {
			t.Errorf("Run = %v", err)
		}
		r.result <- err
	case <-time.After(patience):
		t.Error("still connected")
	}
}

// TestNarrowPath: a path that takes no more than QUIC's least is found.
func TestNarrowPath(t *testing.T) {
	s := newStreet(t)
	c := s.enrol(t)
	s.largest.Store(smallest)
	r := s.run(t, c, session.QUIC)
	r.comes(t, session.QUIC)
	s.begin(t, talkSize/16).ends(t, talkSize/16)
}

// TestDoctorAtHome: the findings about a real edge, open and shut.
func TestDoctorAtHome(t *testing.T) {
	s := newStreet(t)
	c := s.enrol(t)
	cfg := DoctorConfig{Edge: s.url, Credentials: c, Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}
	for _, f := range Doctor(t.Context(), cfg) {
		if f.Status != pass && f.ID != "proxy" {
			t.Errorf("%+v", f)
		}
	}
	cfg.Credentials = nil
	for _, f := range Doctor(t.Context(), cfg) {
		if f.ID == "udp" && f.Status != pass {
			t.Errorf("without credentials: %+v", f)
		}
	}
	s.udpShut.Store(true)
	cfg.Credentials = c
	for _, f := range Doctor(t.Context(), cfg) {
		if f.ID == "udp" && f.Status != warn {
			t.Errorf("%+v", f)
		}
	}
	if n := s.edge.Counters().Joined.Load(); n != 0 {
		t.Errorf("the doctor left %d sessions", n)
	}
}
