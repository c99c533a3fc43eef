package edge

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/tunnel"
)

// What one sandbox may do in a second.
const (
	opensPerSecond = 500
	opensBurst     = 2500
)

// Sandbox is the way of one sandbox to the clients of its space: a [tunnel.Opener] for its data path's socket. What it opens is
// opened in the name of its owner, whatever the caller says.
type Sandbox struct {
	edge  *Edge
	owner tunnel.Owner
	opens *rate.Limiter
	udp   *rate.Limiter // octets
}

var _ tunnel.Opener = (*Sandbox)(nil)

// Sandbox returns the way of one sandbox. There is nothing to close.
func (e *Edge) Sandbox(owner tunnel.Owner) *Sandbox {
	return &Sandbox{
		edge: e, owner: owner, opens: rate.NewLimiter(opensPerSecond, opensBurst),
		udp: rate.NewLimiter(udpPerSecond, udpBurst),
	}
}

// OpenStream implements [tunnel.Opener].
func (s *Sandbox) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	o.Owner = s.owner
	w := flowWish(o)
	return attempt(ctx, s, &w, func(ctx context.Context, m *member) (tunnel.Stream, error) { return m.OpenStream(ctx, o) },
		func(late tunnel.Stream) { late.Abort(tunnel.Reset) })
}

// OpenDatagrams implements [tunnel.Opener].
func (s *Sandbox) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	o.Owner = s.owner
	d, err := s.openDatagrams(ctx, o)
	if err != nil {
		return nil, err
	}
	return newRehomed(s, o, d), nil
}

func (s *Sandbox) openDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	w := flowWish(o)
	return attempt(ctx, s, &w, func(ctx context.Context, m *member) (tunnel.Datagrams, error) { return m.OpenDatagrams(ctx, o) },
		func(late tunnel.Datagrams) { late.Close() })
}

// Query implements [tunnel.Opener].
func (s *Sandbox) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	q.Owner = s.owner
	w := queryWish(q)
	a, err := attempt(ctx, s, &w, func(ctx context.Context, m *member) (answer, error) {
		b, by, err := m.Query(ctx, q)
		return answer{b, by}, err
	}, func(answer) {})
	return a.message, a.by, err
}

type answer struct {
	message []byte
	by      tunnel.Identity
}

// attempt opens something by way of the client that suits best, and of the next one where the first one's session fails. drop
// ends what was opened too late.
func attempt[T any](ctx context.Context, s *Sandbox, w *wish, open func(context.Context, *member) (T, error), drop func(T)) (none T, err error) {
	if !s.opens.Allow() {
		s.edge.counters.OpensLimited.Add(1)
		return none, tunnel.Errorf(tunnel.Limit, "too many opens in a second")
	}
	var tried []*member
	var until <-chan time.Time
	for {
		m, others := s.edge.registry.choose(w, tried)
		if m == nil {
			if until == nil {
				patience := time.NewTimer(parkFor)
				defer patience.Stop()
				until = patience.C
			}
			if !s.edge.registry.park(ctx, w.space, len(tried) > 0, until) {
				return none, s.edge.noClient(ctx, w)
			}
			continue
		}
		v, err := tryOne(ctx, m, others, open, drop)
		if err == nil || !elsewhere(err) || ctx.Err() != nil {
			return v, err
		}
		tried = append(tried, m)
		s.edge.counters.Failovers.Add(1)
	}
}

// noClient is the error of an open that nobody is there for.
func (e *Edge) noClient(ctx context.Context, w *wish) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.counters.NoClient.Add(1)
	if w.via != "" {
		return tunnel.Errorf(tunnel.NoClient, "client %s is not connected", w.via)
	}
	return tunnel.Errorf(tunnel.NoClient, "space %s", w.space)
}

// elsewhere reports whether an open failed for a reason that lies in the session and not in the destination.
func elsewhere(err error) bool {
	var e *tunnel.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case tunnel.Lost, tunnel.Draining, tunnel.Superseded, tunnel.Revoked, tunnel.NoClient:
		return true
	}
	return false
}

// How long an open may hang before its client is asked whether it is there, and how long that may take: both together are less
// than the two seconds in which a flow is to find another one.
const (
	openPatience = 500 * time.Millisecond
	pingPatience = time.Second
)

// tryOne opens by way of one client. Where there are others it does not wait for a client that is not there.
func tryOne[T any](ctx context.Context, m *member, others bool, open func(context.Context, *member) (T, error), drop func(T)) (none T, err error) {
	if !others {
		return open(ctx, m)
	}
	type result struct {
		v   T
		err error
	}
	opening, cancel := context.WithCancel(ctx)
	done := make(chan result, 1)
	go func() {
		defer cancel()
		v, err := open(opening, m)
		done <- result{v, err}
	}()
	patience := time.NewTimer(openPatience)
	defer patience.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-patience.C:
	}
	there := make(chan bool, 1)
	go func() {
		asked, stop := context.WithTimeout(opening, pingPatience)
		defer stop()
		there <- m.answers(asked)
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case yes := <-there:
		if yes || ctx.Err() != nil {
			r := <-done
			return r.v, r.err
		}
	}
	m.doubt()
	cancel()
	go func() { // it may not have seen that it was given up
		if r := <-done; r.err == nil {
			drop(r.v)
		}
	}()
	return none, tunnel.Errorf(tunnel.Lost, "client %s does not answer", m.who.Client)
}
