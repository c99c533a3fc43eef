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

// Watch looks at the store until ctx is done, and tells for which clients what they came in by may count no more: they were
// revoked, have let their certificates expire, these were of an authority that is gone, or they have enrolled again. Which
// connections that ends says [Store.Counts]. Each change is told once, those from before the start too. A renewal is none.
func (s *Store) Watch(ctx context.Context, gone func([]tunnel.Identity)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	w := watcher{told: map[tunnel.Identity]int{}, lives: map[tunnel.Identity]int{}}
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
	lives map[tunnel.Identity]int // how often each had enrolled when it last counted
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
		id := c.Identity()
		switch before := w.lives[id]; {
		case !c.live(st.keys, now):
			tell(c)
		case before != c.Enrolments:
			if w.lives[id] = c.Enrolments; c.Enrolments > 1 { // it may have come in by the one before since the last look
				lost = append(lost, id)
			}
		}
	}
	if w.last != nil && w.last != st.registry {
		for _, c := range w.last.Clients {
			if st.registry.byName[c.Identity()] == nil {
				tell(c)
				delete(w.told, c.Identity())
				delete(w.lives, c.Identity())
			}
		}
	}
	w.last = st.registry
	return lost
}
