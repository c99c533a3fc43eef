package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/gro"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// idle is after how long without a packet a session is lost. With a keepalive every 5 s a path that went dead is noticed
// 15 s later at the latest.
const idle = 10 * time.Second

// smallest is the size of packets that every path for QUIC takes, in octets (RFC 9000 section 14).
const smallest = 1200

// maxPaths is how often a session is moved to a new socket. The earlier sockets stay open until it ends, because quic-go takes
// the end of one for the end of the connection.
const maxPaths = 16

// realParts are those of a machine.
func realParts(s *Supervisor) parts {
	return parts{
		resolve: resolve,
		dial:    s.dial,
		source:  sourceFor,
		changes: networkChanges,
		wall:    func() time.Time { return time.Now().Round(0) },
		random:  rand.Float64,
	}
}

// resolve asks the system for a host's addresses, in the order in which they are to be tried.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// live is a session with the sockets that it runs on.
type live struct {
	*session.Client
	conn *quic.Conn
	way  way

	mu      sync.Mutex
	sockets []socketPair
	closed  bool
}

// socketPair is a socket and the transport that reads it.
type socketPair struct {
	transport *quic.Transport
	socket    net.PacketConn
}

func (p socketPair) close() {
	p.transport.Close()
	p.socket.Close()
}

// Way is how the edge was reached.
func (l *live) Way() way { return l.way }

// dial goes one way: socket, QUIC, greeting.
func (s *Supervisor) dial(ctx context.Context, w way, cfg session.ClientConfig) (carrier, error) {
	sockets, addr, err := s.open(ctx, w)
	if err != nil {
		return nil, err
	}
	qc := session.QUICConfig(session.ClientRole, w.transport, w.addr.Addr().Is6())
	qc.MaxIdleTimeout = idle
	if w.small {
		qc.InitialPacketSize, qc.DisablePathMTUDiscovery = smallest, true
	}
	conn, err := sockets.transport.Dial(ctx, addr, s.cfg.Credentials.TLS(), qc)
	if err != nil {
		sockets.close()
		return nil, fmt.Errorf("connect: %w", creds.Explain(err))
	}
	client, err := session.Connect(ctx, conn, s.cfg.Handler, cfg)
	if err != nil {
		if explained := creds.Explain(context.Cause(conn.Context())); permanent(explained) != nil {
			err = explained
		}
		sockets.close()
		return nil, err
	}
	l := &live{Client: client, conn: conn, way: w, sockets: []socketPair{sockets}}
	go l.closeAfter()
	return l, nil
}

// open opens the socket of a way. A WebSocket's is closed a little later than it could be, so that the farewell arrives.
func (s *Supervisor) open(ctx context.Context, w way) (socketPair, net.Addr, error) {
	if w.transport == session.QUIC {
		pair, err := openUDP(w.addr.Addr())
		return pair, net.UDPAddrFromAddrPort(w.addr), err
	}
	conn, err := websocket.Dial(ctx, websocket.DialConfig{
		URL: s.cfg.Edge, AllowPlain: s.cfg.AllowPlain, Roots: s.cfg.Roots, Proxy: s.cfg.Proxy, Trust: s.cfg.Credentials.TLS().VerifyConnection,
	})
	if err != nil {
		return socketPair{}, nil, err
	}
	return socketPair{&quic.Transport{Conn: conn}, conn}, conn.RemoteAddr(), nil
}

// openUDP opens a socket of the family of addr: of one for both the DF bit could not be set everywhere.
func openUDP(addr netip.Addr) (socketPair, error) {
	network := "udp4"
	if addr.Is6() {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, nil)
	if err != nil {
		return socketPair{}, err
	}
	return socketPair{&quic.Transport{Conn: gro.Wrap(c)}, c}, nil
}

// closeAfter closes the sockets when the session has ended.
func (l *live) closeAfter() {
	<-l.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, p := range l.sockets {
		// The socket first, where it has a queue to empty.
		if _, ok := p.socket.(*websocket.Conn); ok {
			p.socket.Close()
		}
		p.close()
	}
}

// Migrate moves the session to a new socket (RFC 9000 section 9): the edge has to answer there first.
func (l *live) Migrate(ctx context.Context) error {
	if l.way.transport != session.QUIC {
		return errors.New("a websocket stays where it is")
	}
	pair, err := openUDP(l.way.addr.Addr())
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed || len(l.sockets) >= maxPaths {
		l.mu.Unlock()
		pair.close()
		return tunnel.Errorf(tunnel.Limit, "the session has moved %d times", maxPaths)
	}
	l.sockets = append(l.sockets, pair)
	l.mu.Unlock()
	added, err := l.conn.AddPath(pair.transport)
	if err != nil {
		return fmt.Errorf("new path: %w", err)
	}
	if err := added.Probe(ctx); err != nil {
		added.Close()
		return fmt.Errorf("new path: %w", err)
	}
	if err := added.Switch(); err != nil {
		return fmt.Errorf("new path: %w", err)
	}
	return nil
}
