package edge

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/gro"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/websocket"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Config is what an edge is made of.
type Config struct {
	// UDP and TCP are the sockets to listen on, of the same port; [Listen] makes them. Without TCP there is no WebSocket. The
	// edge closes them.
	UDP *net.UDPConn
	TCP net.Listener

	// Store says who may connect.
	Store *creds.Store

	// Outer is the TLS configuration of the WebSocket listener; nil for certificates of the edge's own authority.
	Outer *tls.Config

	// Changed, when set, is told of each session that begins or ends. It must not block.
	Changed func(Change)

	// Log takes diagnostics; nil for none.
	Log logrus.FieldLogger
}

// Change is a session that has begun or ended.
type Change struct {
	Up        bool
	Client    tunnel.Identity
	Transport string // quic or websocket
	Remote    string // where the client's packets come from
	Session   string // the id that both sides log
	Reason    string // why it ended; empty for Up
}

// Listen opens the two sockets of an edge on one address, HOST:PORT or :PORT. With port 0 the system chooses one.
func Listen(addr string) (*net.UDPConn, net.Listener, error) {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for tunnels: %w", err)
	}
	for draw := 1; ; draw++ {
		udp, err := net.ListenUDP("udp", at)
		if err != nil {
			return nil, nil, fmt.Errorf("listen for tunnels: %w", err)
		}
		port := udp.LocalAddr().(*net.UDPAddr).Port
		tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at.IP, Port: port, Zone: at.Zone})
		if err == nil {
			return udp, tcp, nil
		}
		udp.Close()
		if at.Port != 0 || draw == maxDraws { // a port that is free for UDP may be somebody's for TCP
			return nil, nil, fmt.Errorf("listen for tunnels: %w", err)
		}
	}
}

// maxDraws is how often the system may choose a port that is not free for both.
const maxDraws = 20

// Edge is the hosted end.
type Edge struct {
	cfg      Config
	log      logrus.FieldLogger
	quic     *quic.Transport
	listener *quic.Listener
	ws       *websocket.Server // nil without TCP
	limits   *handshakeLimits

	complaints *complaints
	registry   registry
	counters   Counters

	greeting  *places[tunnel.Identity] // of connections that introduce themselves
	enrolling *places[netip.Prefix]    // of connections with a token
	work      sync.WaitGroup
	ctx       context.Context // of the goroutines
	stop      context.CancelFunc

	mu    sync.Mutex
	byWS  map[netip.AddrPort]*quic.Conn // connections by the loopback socket of their WebSocket
	ended bool                          // Close was called
}

// New begins to listen and to let clients in.
func New(cfg Config) (*Edge, error) {
	keys, err := cfg.Store.Keys()
	if err != nil {
		return nil, fmt.Errorf("open edge: %w", err)
	}
	e := &Edge{cfg: cfg, log: cfg.Log, limits: newHandshakeLimits(), byWS: map[netip.AddrPort]*quic.Conn{}}
	e.complaints = newComplaints()
	e.greeting = newPlaces[tunnel.Identity](maxGreeting, maxGreetingOfOne)
	e.enrolling = newPlaces[netip.Prefix](maxEnrolling, maxEnrollingOfOne)
	if e.log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		e.log = silent
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	tlsConfig := cfg.Store.TLS()
	e.openWebSocket()
	e.quic = &quic.Transport{
		Conn:                gro.Wrap(cfg.UDP),
		StatelessResetKey:   (*quic.StatelessResetKey)(&keys.StatelessReset),
		TokenGeneratorKey:   (*quic.TokenGeneratorKey)(&keys.TokenGenerator),
		VerifySourceAddress: e.mustProve,
		ConnContext:         e.admit,
	}
	config := session.QUICConfig(session.EdgeRole, session.QUIC, false)
	config.GetConfigForClient = e.configFor
	if e.listener, err = e.quic.Listen(tlsConfig, config); err != nil {
		e.stop()
		return nil, fmt.Errorf("open edge: %w", err)
	}
	e.work.Go(e.accept)
	e.work.Go(func() { cfg.Store.Watch(e.ctx, e.revoked) })
	if e.ws != nil {
		e.work.Go(func() { e.serveWebSocket(tlsConfig) })
	}
	return e, nil
}

// Addr is where the edge listens.
func (e *Edge) Addr() netip.AddrPort {
	return unmapped(e.cfg.UDP.LocalAddr())
}

// Counters are what became of things so far.
func (e *Edge) Counters() *Counters { return &e.counters }

// mustProve reports whether a handshake has to prove its address first. What comes by WebSocket has proved it.
func (e *Edge) mustProve(remote net.Addr) bool {
	from, transport := e.origin(remote)
	return transport != session.WebSocket && e.limits.mustProve(from.Addr())
}

// errTooMany refuses a connection attempt.
var errTooMany = errors.New("too many handshakes")

// admit is asked before anything is done for a connection.
func (e *Edge) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	e.counters.Handshakes.Add(1)
	from, transport := e.origin(info.RemoteAddr)
	if !e.limits.allow(from.Addr(), info.AddrVerified || transport == session.WebSocket) {
		e.counters.HandshakesRefused.Add(1)
		return nil, errTooMany
	}
	return ctx, nil
}

// configFor returns the parameters for a connection: packets over a WebSocket may be larger.
func (e *Edge) configFor(info *quic.ClientInfo) (*quic.Config, error) {
	from, transport := e.origin(info.RemoteAddr)
	return session.QUICConfig(session.EdgeRole, transport, from.Addr().Is6()), nil
}

// origin is where a connection comes from, and by which transport: what comes by WebSocket has a loopback address here.
func (e *Edge) origin(remote net.Addr) (netip.AddrPort, string) {
	if e.ws != nil {
		if s, ok := e.ws.Lookup(remote); ok {
			return s.Remote, session.WebSocket
		}
	}
	return unmapped(remote), session.QUIC
}

func unmapped(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := udp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// accept takes connections whose handshake is done.
func (e *Edge) accept() {
	for {
		conn, err := e.listener.Accept(e.ctx)
		if err != nil {
			return
		}
		e.greet(conn)
	}
}

// greet finds out what a connection is for, and goes on with it if there is a place.
func (e *Edge) greet(conn *quic.Conn) {
	from, transport := e.origin(conn.RemoteAddr())
	state, next := conn.ConnectionState().TLS, func(leave func()) { e.welcome(conn, from, transport, leave) }
	var leave func()
	if state.NegotiatedProtocol == tunnel.EnrollALPN {
		leave, next = e.enrolling.take(sourceOf(from.Addr())), func(leave func()) { e.enrol(conn, from, leave) }
	} else if who, err := creds.IdentityOf(state); err == nil {
		leave = e.greeting.take(who)
	}
	if leave == nil {
		e.counters.HandshakesRefused.Add(1)
		conn.CloseWithError(quic.ApplicationErrorCode(tunnel.Limit), "")
		return
	}
	e.work.Go(func() { next(leave) })
}

// enrol serves whoever says that he has a token.
func (e *Edge) enrol(conn *quic.Conn, from netip.AddrPort, leave func()) {
	err := e.cfg.Store.ServeEnroll(e.ctx, conn, from.Addr())
	leave()
	if err != nil {
		e.complaints.say(e.log.WithError(err).WithField("remote", from.String()), "tunnel: enrolment refused")
	}
}

// welcome makes a client's session and keeps it.
func (e *Edge) welcome(conn *quic.Conn, from netip.AddrPort, transport string, leave func()) {
	m, err := e.introduce(conn, from, transport)
	leave()
	if err != nil {
		e.counters.BadHellos.Add(1)
		e.complaints.say(e.log.WithError(err).WithField("remote", from.String()), "tunnel: client refused")
		return
	}
	e.serve(m)
}

// introduce makes a session of a connection.
func (e *Edge) introduce(conn *quic.Conn, from netip.AddrPort, transport string) (*member, error) {
	by, err := e.cfg.Store.Admit(conn.ConnectionState().TLS)
	if err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(tunnel.Revoked), "")
		return nil, err
	}
	who := by.Identity
	if transport == session.WebSocket {
		forget := e.rememberWS(conn)
		context.AfterFunc(conn.Context(), forget)
	}
	id := sessionID()
	s, err := session.Accept(e.ctx, conn, who, session.EdgeConfig{
		Transport: transport, Session: id, Log: e.log,
		Renew: func(csr []byte) ([]byte, error) { return e.cfg.Store.Renew(who, csr) },
	})
	if err != nil {
		return nil, err
	}
	return &member{
		Session: s, who: who, by: by, id: id, generation: s.Hello().Generation, transport: transport, remote: from.String(), since: time.Now(),
	}, nil
}

func sessionID() string {
	b := make([]byte, 6)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// serve keeps a session in the registry for as long as it lives.
func (e *Edge) serve(m *member) {
	older, err := e.registry.join(m)
	if err != nil {
		e.counters.Refused.Add(1)
		e.complaints.say(e.log.WithError(err).WithField("client", m.who.String()), "tunnel: client refused")
		m.CloseWith(tunnel.CodeOf(err), "")
		return
	}
	e.counters.Joined.Add(1)
	e.counters.Sessions.Add(1)
	e.changed(m, true, "")
	for _, o := range older {
		if e.cfg.Store.Counts(o.by) != nil { // it has enrolled again, and this may be another machine
			e.counters.Revoked.Add(1)
			e.work.Go(func() { o.CloseWith(tunnel.Revoked, "") })
			continue
		}
		e.counters.Superseded.Add(1)
		e.work.Go(func() {
			o.Drain(e.ctx, wire.Drain{Code: tunnel.Superseded, Text: "a later process of this client has connected", Deadline: drainFor})
		})
	}
	for _, o := range e.registry.crowd(m.who) {
		e.work.Go(func() { o.CloseWith(tunnel.Superseded, "") })
	}
	// It may have been revoked while it came in, when Watch did not know it yet.
	if err := e.cfg.Store.Counts(m.by); err != nil {
		e.work.Go(func() { m.CloseWith(tunnel.Revoked, "") })
	}
	<-m.Done()
	err = m.Err()
	code := tunnel.CodeOf(err)
	e.registry.leave(m, code != tunnel.Revoked && code != tunnel.Superseded && code != tunnel.Denied)
	e.counters.Sessions.Add(-1)
	m.CloseWith(code, "") // its goroutines have ended, too
	e.changed(m, false, code.String())
}

func (e *Edge) changed(m *member, up bool, reason string) {
	e.log.WithFields(logrus.Fields{"client": m.who.String(), "transport": m.transport, "remote": m.remote, "session": m.id, "reason": reason, "up": up}).Info("tunnel: client")
	if e.cfg.Changed != nil {
		e.cfg.Changed(Change{Up: up, Client: m.who, Transport: m.transport, Remote: m.remote, Session: m.id, Reason: reason})
	}
}

// revoked ends the sessions of these clients that came in by what does not count any more.
func (e *Edge) revoked(gone []tunnel.Identity) {
	for _, who := range gone {
		for _, m := range e.registry.of(who) {
			if e.cfg.Store.Counts(m.by) == nil {
				continue
			}
			e.counters.Revoked.Add(1)
			e.work.Go(func() { m.CloseWith(tunnel.Revoked, "") })
		}
	}
}

// drainFor is how long the flows of a session that ends may take to end.
const drainFor = 30 * time.Second

// Drain lets nobody connect any more, opens nothing, tells the clients when they may come again, and waits until their flows have
// ended, or ctx has.
func (e *Edge) Drain(ctx context.Context, reconnectAfter time.Duration) {
	e.listener.Close()
	var drains sync.WaitGroup
	for _, m := range e.registry.close() {
		drains.Go(func() {
			m.Drain(ctx, wire.Drain{Code: tunnel.Draining, Text: "the edge is about to end", ReconnectAfter: reconnectAfter, Deadline: drainFor})
		})
	}
	drains.Wait()
}

// Close ends everything at once and waits for it.
func (e *Edge) Close() error {
	e.mu.Lock()
	ended := e.ended
	e.ended = true
	e.mu.Unlock()
	if ended {
		return nil
	}
	for _, m := range e.registry.close() {
		m.CloseWith(tunnel.Draining, "")
	}
	e.stop()
	e.listener.Close()
	if e.ws != nil {
		e.ws.Close()
		e.cfg.TCP.Close()
	}
	err := e.quic.Close()
	e.cfg.UDP.Close()
	e.work.Wait()
	return err
}

// Client is one that is connected.
type Client struct {
	Identity  tunnel.Identity
	Session   string
	Transport string
	Remote    string
	Since     time.Time
	Software  string // hostile text
	OS        string // hostile text
	Stats     tunnel.Stats
}

// Clients are those that are connected, of all spaces.
func (e *Edge) Clients() []Client {
	e.registry.mu.Lock()
	members := e.registry.all()
	e.registry.mu.Unlock()
	list := make([]Client, 0, len(members))
	for _, m := range members {
		hello := m.Hello()
		list = append(list, Client{m.who, m.id, m.transport, m.remote, m.since, hello.Software, hello.OS, m.Stats()})
	}
	return list
}
