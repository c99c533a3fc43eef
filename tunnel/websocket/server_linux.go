package websocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	ws "github.com/coder/websocket"
	"github.com/sirupsen/logrus"
)

// Bounds of a server where its config says nothing.
const (
	defaultSessions        = 2048
	defaultSessionsPerHost = 64
	defaultIdle            = 60 * time.Second
	defaultHeader          = 5 * time.Second
	defaultGrace           = 30 * time.Second
)

// ServerConfig says what a server gives to whom.
type ServerConfig struct {
	// QUIC is the address of the edge's listener on this machine. An unspecified one is reached by loopback.
	QUIC netip.AddrPort

	Sessions        int           // at one time; 0 for 2048
	SessionsPerHost int           // at one time and IPv4 address or IPv6 /64; 0 for 64
	Idle            time.Duration // without a packet from the client; 0 for a minute, QUIC gives up earlier
	Header          time.Duration // from the connection to the request's end, TLS handshake included; 0 for 5 s

	// Known says whether somebody has authenticated over a session, and may be nil. One for which it does not after Grace, and after
	// each Grace more, ends: packets alone, which may be anything, do not keep a place. Grace is 30 s when it is 0.
	Known func(Session) bool
	Grace time.Duration

	// Ended is told of each session's end, once, and may be nil. Its QUIC connection can go with it at once: a client whose
	// WebSocket broke has no other way to use it.
	Ended func(Session)

	// Log gets diagnostics; nil is silent.
	Log logrus.FieldLogger
}

// Session is who is behind one of the loopback sockets.
type Session struct {
	Local  netip.AddrPort // what the QUIC listener sees
	Remote netip.AddrPort // the client, or the proxy that it came by
	Since  time.Time
}

// Server takes WebSockets at [Path], as an http.Handler or with [Server.Serve]. Its counters are for metrics.
type Server struct {
	cfg ServerConfig

	// Refused counts requests over a bound, Malformed sessions that ended because of what they sent.
	Refused, Malformed atomic.Uint64

	mu       sync.Mutex
	sessions map[netip.AddrPort]Session
	held     quota

	ctx   context.Context // of all sessions
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// NewServer returns a server that the caller closes.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Sessions == 0 {
		cfg.Sessions = defaultSessions
	}
	if cfg.SessionsPerHost == 0 {
		cfg.SessionsPerHost = defaultSessionsPerHost
	}
	if cfg.Idle == 0 {
		cfg.Idle = defaultIdle
	}
	if cfg.Header == 0 {
		cfg.Header = defaultHeader
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		cfg.Log = silent
	}
	s := &Server{cfg: cfg, sessions: map[netip.AddrPort]Session{}, held: newQuota(cfg.Sessions, cfg.SessionsPerHost)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Lookup returns the session whose packets come from addr, as the QUIC listener sees it.
func (s *Server) Lookup(addr net.Addr) (Session, bool) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return Session{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.sessions[unmap(udp.AddrPort())]
	return session, ok
}

// Len is the number of sessions now.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Close ends all sessions and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.ended.Wait()
	return nil
}

// ServeHTTP carries one session and returns when it has ended.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != Path {
		http.NotFound(w, r)
		return
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no address", http.StatusBadRequest)
		return
	}
	remote = unmap(remote)
	if !s.enter(remote.Addr()) {
		s.Refused.Add(1)
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many sessions", http.StatusTooManyRequests)
		return
	}
	defer s.leave(remote.Addr())
	if err := s.carry(w, r, remote); err != nil {
		if errors.Is(err, errMalformed) {
			s.Malformed.Add(1)
		}
		s.cfg.Log.WithField("remote", remote.String()).WithError(err).Debug("websocket session ended")
	}
}

// enter takes a place for a session, unless there is none or the server is closed.
func (s *Server) enter(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || !s.held.take(addr) {
		return false
	}
	s.ended.Add(1)
	return true
}

func (s *Server) leave(addr netip.Addr) {
	s.mu.Lock()
	s.held.give(addr)
	s.mu.Unlock()
	s.ended.Done()
}

// carry makes a WebSocket of the request and a socket for it, and joins them until one of them ends.
func (s *Server) carry(w http.ResponseWriter, r *http.Request, remote netip.AddrPort) error {
	udp, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(reachable(s.cfg.QUIC)))
	if err != nil {
		http.Error(w, "no way to the edge", http.StatusServiceUnavailable)
		return fmt.Errorf("socket: %w", err)
	}
	defer udp.Close()
	c, err := ws.Accept(w, r, nil)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer c.CloseNow()
	session := Session{Local: unmap(udp.LocalAddr().(*net.UDPAddr).AddrPort()), Remote: remote, Since: time.Now()}
	s.mu.Lock()
	s.sessions[session.Local] = session
	s.mu.Unlock()
	defer func() { // before the socket is closed, and its port somebody else's
		s.mu.Lock()
		delete(s.sessions, session.Local)
		s.mu.Unlock()
		if s.cfg.Ended != nil {
			s.cfg.Ended(session)
		}
	}()
	ctx, end := context.WithCancelCause(s.ctx)
	defer end(nil)
	if s.cfg.Known != nil {
		go s.watch(ctx, session, end)
	}
	return join(ctx, newLink(c, nil), udp, s.cfg.Idle)
}

// errUnknown ends a session over which nobody has authenticated.
var errUnknown = errors.New("nobody has authenticated")

// watch ends a session that is nobody's.
func (s *Server) watch(ctx context.Context, session Session, end context.CancelCauseFunc) {
	tick := time.NewTicker(s.cfg.Grace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.cfg.Known(session) {
			end(errUnknown)
			return
		}
	}
}

// reachable is how a listener's address is reached from its own machine.
func reachable(a netip.AddrPort) netip.AddrPort {
	switch {
	case a.Addr().Unmap() == netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case a.Addr() == netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return unmap(a)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
