package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

const (
	// stallAfter is how long a flow's reader has to take nothing to count as stalled.
	stallAfter = 5 * time.Second

	// stallEvery is how often that is looked at.
	stallEvery = time.Second
)

// stalls watches over what has come for flows whose readers take nothing. All of it counts against the one window of the
// connection (RFC 9000 section 4.1), so a few such flows would stop all others. While they may hold half of it, those of the
// sandbox that holds most are reset, the longest stalled first.
type stalls struct {
	bound int64 // octets

	mu    sync.Mutex
	flows map[*pouring]struct{}
	reset uint64 // flows
}

// pouring is a direction of a flow in which octets come.
type pouring struct {
	sandbox string
	abort   func(tunnel.Code)
	got     atomic.Int64 // octets that were read
	since   atomic.Int64 // since when its reader has been asked to take some, in nanoseconds since 1970; 0 when it is not
}

// holds is how much the flow may hold unread: its window, which has grown with what was read.
func (p *pouring) holds() int64 { return min(max(p.got.Load(), streamWindow), maxStreamWindow) }

func newStalls(bound int64) *stalls { return &stalls{bound: bound, flows: make(map[*pouring]struct{})} }

func (s *stalls) add(sandbox string, abort func(tunnel.Code)) *pouring {
	p := &pouring{sandbox: sandbox, abort: abort}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows[p] = struct{}{}
	return p
}

func (s *stalls) remove(p *pouring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, p)
}

// watch looks again and again until done is closed.
func (s *stalls) watch(done <-chan struct{}) {
	t := time.NewTicker(stallEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			for p := s.worst(time.Now()); p != nil; p = s.worst(time.Now()) {
				p.abort(tunnel.Limit)
			}
		case <-done:
			return
		}
	}
}

// worst takes the flow out of the watch that is to be reset, and returns it, nil if none has to.
func (s *stalls) worst(now time.Time) (worst *pouring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all int64
	held := make(map[string]int64)
	stalled := func(p *pouring) bool {
		since := p.since.Load()
		return since != 0 && now.UnixNano()-since >= int64(stallAfter)
	}
	for p := range s.flows {
		if stalled(p) {
			held[p.sandbox] += p.holds()
			all += p.holds()
		}
	}
	if all < s.bound {
		return nil
	}
	for p := range s.flows {
		if !stalled(p) {
			continue
		}
		if worst == nil || held[p.sandbox] > held[worst.sandbox] ||
			held[p.sandbox] == held[worst.sandbox] && p.since.Load() < worst.since.Load() {
			worst = p
		}
	}
	delete(s.flows, worst)
	s.reset++
	return worst
}
