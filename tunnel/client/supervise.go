package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Credentials are who the client is: a *creds.Client.
type Credentials interface {
	TLS() *tls.Config
	CSR() ([]byte, error)
	Install(chain []byte) error
	RenewAt() time.Time
	Expires() time.Time
}

// SupervisorConfig says which edge to stay connected with, and how.
type SupervisorConfig struct {
	// Edge is where: "https://HOST[:PORT]", 443 without a port, for UDP and TCP alike.
	Edge *url.URL

	Credentials Credentials
	Handler     tunnel.Handler

	// Transport is session.QUIC or session.WebSocket to use nothing else; empty for what works.
	Transport string

	// Session is what each session says. Without a Generation the time of NewSupervisor is it. The Transport is not used.
	Session session.ClientConfig

	// Roots, AllowPlain and Proxy are those of websocket.DialConfig.
	Roots      *x509.CertPool
	AllowPlain bool
	Proxy      func(*url.URL) (*url.URL, error)

	// Report is told each change of state, in order, from one goroutine, and must not block. It may be nil.
	Report func(State)

	// Log gets diagnostics; nil is silent.
	Log logrus.FieldLogger
}

// Supervisor keeps one session with an edge alive: it finds the way, comes back when it is lost, moves with the machine from
// network to network, and renews the credentials.
//
//	resolve -> race: QUIC, and WebSocket 400 ms later; the first authenticated session wins
//	        -> keep: until it is lost (backoff, race again), drained by the edge (race when it says so), or ended for good
//	                 on WebSocket: try QUIC again every 5 minutes and on each change of network, the new session takes the
//	                 flows from then on, the old one ends when the last of its own has
//	                 on a change of network or after sleep: move the session to a new socket, else race again
//
// All decisions are made by one goroutine, Run's; what takes time runs beside it and comes back as an event.
type Supervisor struct {
	cfg   SupervisorConfig
	parts parts

	quit     chan struct{} // closed by Quit
	quitOnce sync.Once
	moves    atomic.Int32

	mu      sync.Mutex
	current carrier // nil without a session
	state   State
	routes  []wire.Route
	found   netip.AddrPort // what the edge's name led to last
}

// parts are what a supervisor does the outer world with; tests have others.
type parts struct {
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	dial    func(ctx context.Context, w way, cfg session.ClientConfig) (carrier, error)

	// source is the address from which this machine would send to addr now; invalid when it has no way.
	source func(addr netip.AddrPort) netip.Addr

	// changes has an element after a possible change of network, besides what polling source finds; it may be nil.
	changes func(ctx context.Context) <-chan struct{}

	wall   func() time.Time // the wall clock, which a sleeping machine does not stop
	random func() float64   // in [0, 1)
}

// carrier is a session as the supervisor sees it.
type carrier interface {
	Done() <-chan struct{}
	Err() error
	Draining() <-chan struct{}
	DrainInfo() wire.Drain
	Drain(ctx context.Context, why string) error
	CloseWith(code tunnel.Code, text string)
	Stats() tunnel.Stats
	Ping(ctx context.Context) (time.Duration, error)
	Probe(ctx context.Context, octets int) (time.Duration, error)
	Renew(ctx context.Context, csr []byte) ([]byte, error)
	SetRoutes(routes []wire.Route) error
	Welcome() wire.Welcome

	// Migrate moves the session to a new socket.
	Migrate(ctx context.Context) error

	// Way is how the edge was reached.
	Way() way
}

// NewSupervisor returns a supervisor that does nothing before Run.
func NewSupervisor(cfg SupervisorConfig) (*Supervisor, error) {
	s := &Supervisor{quit: make(chan struct{}), routes: cfg.Session.Routes}
	switch cfg.Transport {
	case "", session.QUIC, session.WebSocket:
	default:
		return nil, fmt.Errorf("supervisor: %q is no transport", cfg.Transport)
	}
	if cfg.Edge == nil || cfg.Edge.Hostname() == "" {
		return nil, errors.New("supervisor: the edge's URL has no host")
	}
	if cfg.Log == nil {
		silent := logrus.New()
		silent.Level = logrus.PanicLevel
		cfg.Log = silent
	}
	if cfg.Session.Generation == 0 {
		cfg.Session.Generation = uint64(time.Now().UnixMilli())
	}
	s.cfg = cfg
	s.parts = realParts(s)
	return s, nil
}

// Run stays connected until ctx ends, Quit has drained the session, or it is clear that no attempt would ever succeed:
// credentials that do not count, no common version, a newer process of the same client. The error is nil for Quit, the cause
// of ctx, or an error that tells which; no session is left. It is called once.
func (s *Supervisor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	k := newKeeper(ctx, s)
	err := k.run()
	cancel()
	k.work.Wait()
	s.setCurrent(nil)
	s.report(State{Phase: Ended, Reason: errText(err)})
	return err
}

// Quit has Run end as soon as the flows have, or after 30 seconds.
func (s *Supervisor) Quit() { s.quitOnce.Do(func() { close(s.quit) }) }

// State is the one that was last reported, with the round-trip time as it is now.
func (s *Supervisor) State() State {
	s.mu.Lock()
	state, c := s.state, s.current
	s.mu.Unlock()
	if c != nil {
		state.RTT = c.Stats().RTT
	}
	return state
}

// Moves is how often a session has moved to another socket so far, and kept its flows.
func (s *Supervisor) Moves() int { return int(s.moves.Load()) }

// Stats are those of the session now, zero without one.
func (s *Supervisor) Stats() tunnel.Stats {
	s.mu.Lock()
	c := s.current
	s.mu.Unlock()
	if c == nil {
		return tunnel.Stats{}
	}
	return c.Stats()
}

// SetRoutes has this and all later sessions say that the client reaches routes.
func (s *Supervisor) SetRoutes(routes []wire.Route) error {
	s.mu.Lock()
	s.routes = routes
	c := s.current
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.SetRoutes(routes)
}

func (s *Supervisor) setCurrent(c carrier) {
	s.mu.Lock()
	s.current = c
	s.mu.Unlock()
}

// sessionConfig is what the next session says.
func (s *Supervisor) sessionConfig(transport string) session.ClientConfig {
	cfg := s.cfg.Session
	s.mu.Lock()
	cfg.Routes = s.routes
	s.mu.Unlock()
	cfg.Transport = transport
	return cfg
}
