package client

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/wire"
)

// lab is an edge, the ways to it, and machines that can sleep and move, all without a packet. Its time is synctest's.
type lab struct {
	mu       sync.Mutex
	udpDown  bool          // packets of QUIC are lost
	tcpDown  bool          // connections of WebSocket are not answered
	udpMTU   int           // 0 for anything
	rtt      time.Duration // 0 for 20 ms
	refuse   error         // what each handshake ends with
	deaf     bool          // sessions on their old path do not answer on a new one
	sleep    time.Duration // how far the wall clock is ahead
	source   netip.Addr
	sessions []*fakeSession
	dials    []fakeDial
	noName   error // of resolving
}

// fakeDial is one attempt as the lab saw it.
type fakeDial struct {
	at time.Time
	w  way
}

const fakeRTT = 20 * time.Millisecond

var (
	edge4 = netip.MustParseAddr("192.0.2.1")
	edge6 = netip.MustParseAddr("2001:db8::1")
	home  = netip.MustParseAddr("198.51.100.10")
	cafe  = netip.MustParseAddr("203.0.113.20")
)

func newLab() *lab { return &lab{source: home, rtt: fakeRTT} }

func (l *lab) set(change func()) {
	l.mu.Lock()
	change()
	l.mu.Unlock()
}

// parts are what a machine in the lab does the outer world with.
func (l *lab) parts(seed uint64) parts {
	random := rand.New(rand.NewPCG(seed, 1))
	return parts{
		resolve: func(context.Context, string) ([]netip.Addr, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.noName != nil {
				return nil, l.noName
			}
			return []netip.Addr{edge4}, nil
		},
		dial: l.dial,
		source: func(netip.AddrPort) netip.Addr {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.source
		},
		wall: func() time.Time {
			l.mu.Lock()
			defer l.mu.Unlock()
			return time.Now().Round(0).Add(l.sleep)
		},
		random: random.Float64,
	}
}

// dial takes as long as the handshakes would: one round trip for QUIC and one for the greeting, three more for the outer TLS.
func (l *lab) dial(ctx context.Context, w way, _ session.ClientConfig) (carrier, error) {
	l.mu.Lock()
	l.dials = append(l.dials, fakeDial{time.Now(), w})
	size := 1252
	if w.small {
		size = smallest
	}
	lost := w.transport == session.QUIC && (l.udpDown || l.udpMTU > 0 && l.udpMTU < size) || w.transport == session.WebSocket && l.tcpDown
	trips, refuse, rtt := time.Duration(2), l.refuse, l.rtt
	l.mu.Unlock()
	if w.transport == session.WebSocket {
		trips += 3
	}
	wait := trips * rtt
	if lost {
		wait = session.HandshakeTimeout
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case lost && w.transport == session.QUIC:
		return nil, &quic.HandshakeTimeoutError{}
	case lost:
		return nil, errors.New("connection timed out")
	case refuse != nil:
		return nil, refuse
	}
	s := &fakeSession{lab: l, way: w, done: make(chan struct{}), drainSaid: make(chan struct{}), began: time.Now(), heard: time.Now()}
	l.mu.Lock()
	l.sessions = append(l.sessions, s)
	l.mu.Unlock()
	go s.live()
	return s, nil
}

// live lets the session end as QUIC would: when nothing has come for the idle time after a keepalive.
func (s *fakeSession) live() {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
		}
		s.lab.mu.Lock()
		down := s.way.transport == session.QUIC && s.lab.udpDown || s.way.transport == session.WebSocket && s.lab.tcpDown
		s.lab.mu.Unlock()
		s.mu.Lock()
		if !down {
			s.heard = time.Now()
		}
		gone := time.Since(s.heard) >= idle+5*time.Second
		s.mu.Unlock()
		if gone {
			s.end(tunnel.Errorf(tunnel.Lost, "nothing came from the other side for too long"))
		}
	}
}

// fakeSession is a session in the lab.
type fakeSession struct {
	lab   *lab
	way   way
	began time.Time

	mu        sync.Mutex
	heard     time.Time
	err       error
	flows     int
	lost      uint64
	moves     int
	renewals  int
	drained   bool // the client has asked for it
	drain     wire.Drain
	drainSaid chan struct{}
	done      chan struct{}
}

func (s *fakeSession) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.done)
	}
}

// sayDrain is the edge's DRAIN.
func (s *fakeSession) sayDrain(d wire.Drain) {
	s.mu.Lock()
	s.drain = d
	s.mu.Unlock()
	close(s.drainSaid)
}

func (s *fakeSession) Done() <-chan struct{}     { return s.done }
func (s *fakeSession) Draining() <-chan struct{} { return s.drainSaid }
func (s *fakeSession) Way() way                  { return s.way }
func (s *fakeSession) Welcome() wire.Welcome     { return wire.Welcome{Session: "fake"} }

func (s *fakeSession) SetRoutes([]wire.Route) error { return nil }

func (s *fakeSession) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *fakeSession) DrainInfo() wire.Drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain
}

// Drain waits for the flows, as a real one does.
func (s *fakeSession) Drain(ctx context.Context, why string) error {
	s.mu.Lock()
	s.drained = true
	s.mu.Unlock()
	for {
		s.mu.Lock()
		idle := s.flows == 0
		s.mu.Unlock()
		if idle {
			s.end(tunnel.Errorf(tunnel.Draining, "%s", why))
		}
		select {
		case <-s.done:
			return nil
		case <-ctx.Done():
			s.end(tunnel.Errorf(tunnel.Draining, "%s", why))
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *fakeSession) CloseWith(code tunnel.Code, text string) {
	s.end(tunnel.Errorf(code, "%s", text))
}

func (s *fakeSession) Stats() tunnel.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tunnel.Stats{Transport: s.way.transport, RTT: fakeRTT, Flows: s.flows, PacketsLost: s.lost}
}

// reach waits for a round trip of packets of a size.
func (s *fakeSession) reach(ctx context.Context, size int) (time.Duration, error) {
	s.lab.mu.Lock()
	down := s.way.transport == session.QUIC && (s.lab.udpDown || s.lab.udpMTU > 0 && s.lab.udpMTU < size)
	s.lab.mu.Unlock()
	var arrives <-chan time.Time
	if !down {
		arrives = time.After(fakeRTT)
	}
	select {
	case <-arrives:
		return fakeRTT, nil
	case <-s.done:
		return 0, s.Err()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *fakeSession) Ping(ctx context.Context) (time.Duration, error) { return s.reach(ctx, 100) }

func (s *fakeSession) Probe(ctx context.Context, octets int) (time.Duration, error) {
	return s.reach(ctx, min(octets, 1252))
}

func (s *fakeSession) Renew(ctx context.Context, csr []byte) ([]byte, error) {
	if _, err := s.reach(ctx, 500); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewals++
	return csr, nil
}

func (s *fakeSession) Migrate(ctx context.Context) error {
	s.lab.mu.Lock()
	deaf := s.lab.deaf
	s.lab.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if _, err := s.reach(ctx, smallest); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moves++
	return nil
}

// fakeCredentials live for a day.
type fakeCredentials struct {
	mu        sync.Mutex
	made      time.Time
	installed int
	wall      func() time.Time
}

func (*fakeCredentials) TLS() *tls.Config     { return &tls.Config{} }
func (*fakeCredentials) CSR() ([]byte, error) { return []byte("csr"), nil }

func (c *fakeCredentials) RenewAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made.Add(12 * time.Hour)
}

func (c *fakeCredentials) Expires() time.Time { return c.RenewAt().Add(12 * time.Hour) }

func (c *fakeCredentials) Install([]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.installed++
	c.made = c.wall()
	return nil
}

// laptop is a user's machine with a supervisor that runs.
type laptop struct {
	*Supervisor
	lab    *lab
	creds  *fakeCredentials
	stop   context.CancelFunc
	result chan error

	mu     sync.Mutex
	states []State
	at     []time.Time
}

// start runs a supervisor in the lab. It must be called in a synctest bubble.
func (l *lab) start(t *testing.T, seed uint64, change ...func(*SupervisorConfig)) *laptop {
	t.Helper()
	p := l.parts(seed)
	m := &laptop{lab: l, result: make(chan error, 1), creds: &fakeCredentials{made: time.Now(), wall: p.wall}}
	u, _ := url.Parse("https://edge.example")
	cfg := SupervisorConfig{Edge: u, Credentials: m.creds, Report: m.report}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if m.Supervisor, err = NewSupervisor(cfg); err != nil {
		t.Fatal(err)
	}
	m.parts = p
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.result <- m.Run(ctx) }()
	t.Cleanup(cancel) // a test that fails must not leave it running: its time would never end
	return m
}

// end stops the supervisor and holds it to leaving nothing behind; synctest itself holds it to leaving no goroutine.
func (m *laptop) end(t *testing.T) {
	t.Helper()
	m.stop()
	if err := <-m.result; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
	synctest.Wait()
	for _, s := range m.lab.all() {
		if s.Err() == nil {
			t.Errorf("a session by %s is still open", s.way)
		}
	}
}

func (m *laptop) report(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states, m.at = append(m.states, s), append(m.at, time.Now())
}

// phases are those that were reported.
func (m *laptop) phases() (list []Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.states {
		list = append(list, s.Phase)
	}
	return list
}

func (m *laptop) wants(t *testing.T, p Phase, transport string) {
	t.Helper()
	synctest.Wait()
	if s := m.State(); s.Phase != p || s.Transport != transport {
		t.Fatalf("%+v, want %s %s; so far %v", s, p, transport, m.phases())
	}
}

func (l *lab) all() []*fakeSession {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sessions)
}

func (l *lab) last() *fakeSession {
	all := l.all()
	return all[len(all)-1]
}

func (l *lab) dialled() []fakeDial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.dials)
}
