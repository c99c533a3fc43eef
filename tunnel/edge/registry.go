package edge

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Bounds of what is connected.
const (
	maxSessions       = 2048 // of all spaces
	maxSpaceSessions  = 128  // of one
	maxClientSessions = 4    // of one client: one, its next one, and those that drain
	maxClientLeaving  = 4    // of one client's processes before, whose flows go on for a while
)

// Session is what the edge wants of a client's session. A *session.Edge is one.
type Session interface {
	tunnel.Opener
	Identity() tunnel.Identity
	Hello() wire.Hello
	Routes() []wire.Route
	Ping(ctx context.Context) (time.Duration, error)
	Stats() tunnel.Stats
	Done() <-chan struct{}
	Err() error
	Drain(ctx context.Context, after wire.Drain) error
	CloseWith(code tunnel.Code, text string)
}

// member is a session in the registry.
type member struct {
	Session
	who        tunnel.Identity
	by         creds.Admission // what it came in by
	id         string          // of the session, for both logs
	generation uint64
	transport  string
	remote     string
	since      time.Time

	retired bool        // a later session of the same process took its place; guarded by the registry's mutex
	suspect atomic.Bool // it did not answer, and has not since

	asking sync.Mutex // one ping at a time
	heard  time.Time  // of the last answer; guarded by asking
}

// registry knows who is connected.
type registry struct {
	mu     sync.Mutex
	spaces map[string]*space
	total  int
	closed bool
}

// space is what the registry has of one tenant. It stays when nobody is connected any more, for those who wait.
type space struct {
	members []*member     // in the order in which they came
	leaving []*member     // whose client has come again; their flows go on for a while
	left    time.Time     // when the last session went that may come back
	came    chan struct{} // closed when the next one comes
	parked  int           // opens that wait for it
}

func (r *registry) space(name string) *space {
	s := r.spaces[name]
	if s == nil {
		if r.spaces == nil {
			r.spaces = map[string]*space{}
		}
		s = &space{came: make(chan struct{})}
		r.spaces[name] = s
	}
	return s
}

// join adds m. older are the sessions whose client has come again by another process; they are no members any more. The error
// is for the client.
func (r *registry) join(m *member) (older []*member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.space(m.who.Space)
	same := 0
	for _, o := range s.members {
		switch {
		case o.who != m.who:
		case o.by.Enrolment < m.by.Enrolment: // whatever generation it claims: it may be another machine
			older = append(older, o)
		case o.by.Enrolment > m.by.Enrolment, o.generation > m.generation:
			return nil, tunnel.Errorf(tunnel.Superseded, "a later process of this client is connected")
		case o.generation < m.generation:
			older = append(older, o)
		default:
			same++
		}
	}
	if r.closed {
		return nil, tunnel.Errorf(tunnel.Draining, "the edge is about to end")
	}
	if same >= maxClientSessions || len(s.members)-len(older) >= maxSpaceSessions || r.total-len(older) >= maxSessions {
		return nil, tunnel.Errorf(tunnel.Limit, "too many sessions")
	}
	for _, o := range s.members {
		o.retired = o.retired || o.who == m.who
	}
	s.members = slices.DeleteFunc(s.members, func(o *member) bool { return slices.Contains(older, o) })
	s.members = append(s.members, m)
	s.leaving = append(s.leaving, older...)
	r.total += 1 - len(older)
	close(s.came)
	s.came = make(chan struct{})
	return older, nil
}

// crowd returns those of a client's sessions that are about to end for which there is no room: the first ones.
func (r *registry) crowd(who tunnel.Identity) (list []*member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.space(who.Space).leaving {
		if m.who == who {
			list = append(list, m)
		}
	}
	return list[:max(0, len(list)-maxClientLeaving)]
}

// leave removes m. It reports whether it was there.
func (r *registry) leave(m *member, mayComeBack bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.space(m.who.Space)
	s.leaving = slices.DeleteFunc(s.leaving, func(o *member) bool { return o == m })
	i := slices.Index(s.members, m)
	if i < 0 {
		return false
	}
	s.members = slices.Delete(s.members, i, i+1)
	r.total--
	if mayComeBack {
		s.left = time.Now()
	}
	return true
}

// of returns the sessions of one client, those too that are about to end.
func (r *registry) of(who tunnel.Identity) []*member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*member
	s := r.space(who.Space)
	for _, m := range slices.Concat(s.members, s.leaving) {
		if m.who == who {
			list = append(list, m)
		}
	}
	return list
}

// close lets nobody join any more, and returns who is there.
func (r *registry) close() []*member {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.all()
}

// all is called with the lock held.
func (r *registry) all() (list []*member) {
	for _, s := range r.spaces {
		list = append(list, s.members...)
	}
	return list
}

const (
	// parkAfter is how long after its last client went a space is taken for one that waits for it.
	parkAfter = 15 * time.Second

	// parkFor is how long an open waits, maxParked how many of one space may.
	parkFor   = 3 * time.Second
	maxParked = 256
)

// park waits for the next session of a space, if there is a reason to: one went just now, or hope says so. It reports whether
// one came.
func (r *registry) park(ctx context.Context, name string, hope bool, until <-chan time.Time) bool {
	r.mu.Lock()
	s := r.space(name)
	if r.closed || s.parked >= maxParked || !hope && time.Since(s.left) > parkAfter {
		r.mu.Unlock()
		return false
	}
	s.parked++
	came := s.came
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		s.parked--
		r.mu.Unlock()
	}()
	select {
	case <-came:
		return true
	case <-until:
	case <-ctx.Done():
	}
	return false
}
