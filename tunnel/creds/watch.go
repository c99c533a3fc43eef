//go:build unix

package creds

import (
	"context"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

const (
	// watchEvery is how often a running edge looks at the files: a revocation counts within a second.
	watchEvery = 250 * time.Millisecond

	// blindFor is how long the files may be unreadable before nobody is known any more.
	blindFor = 5 * time.Second
)

// Watch looks at the store until ctx is done, and tells which clients have no certificate any more that counts: they were
// revoked, have let it expire, or it was of an authority that is gone. Each is told once, those that were so from the start
// too; one that enrols again may be told again. A client that has only changed its certificate or key is not told.
func (s *Store) Watch(ctx context.Context, gone func([]tunnel.Identity)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	w := watcher{told: map[tunnel.Identity]int{}}
	for {
		st, err := s.load()
		if err != nil && w.blind.IsZero() {
			s.log.WithError(err).Error("clients of the tunnel cannot be looked up")
		}
		if lost := w.look(st, s.now()); len(lost) > 0 {
			gone(lost)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watcher remembers what was told.
type watcher struct {
	last  *registry
	told  map[tunnel.Identity]int // how often each had enrolled when it was told
	blind time.Time               // since when the files cannot be read
}

// look returns who is gone. st is nil when the files cannot be read.
func (w *watcher) look(st *state, now time.Time) (lost []tunnel.Identity) {
	tell := func(c *Record) {
		if id := c.Identity(); w.told[id] != c.Enrolments {
			w.told[id] = c.Enrolments
			lost = append(lost, id)
		}
	}
	if st == nil {
		if w.blind.IsZero() {
			w.blind = now
		}
		if w.last != nil && now.Sub(w.blind) >= blindFor {
			for _, c := range w.last.Clients {
				tell(c)
			}
			w.last = nil
		}
		return lost
	}
	if !w.blind.IsZero() && w.last == nil {
		clear(w.told) // they were all told, and may have come back
	}
	w.blind = time.Time{}
	for _, c := range st.registry.Clients {
		if !c.live(st.keys, now) {
			tell(c)
		}
	}
	if w.last != nil && w.last != st.registry {
		for _, c := range w.last.Clients {
			if st.registry.byName[c.Identity()] == nil {
				tell(c)
				delete(w.told, c.Identity())
			}
		}
	}
	w.last = st.registry
	return lost
}
