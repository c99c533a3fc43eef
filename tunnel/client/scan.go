package client

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds of the guard against scans. An app that was refused or denied at more than scanTargets destinations within
// scanWindow looks for something, and is paused for scanPause; all apps together have scanAll, because the names of apps are
// the edge's to choose. Who tries one closed port again and again is no scan. At most maxScanners apps are watched.
const (
	scanTargets = 20
	scanAll     = 100
	scanWindow  = 10 * time.Second
	scanPause   = time.Minute
	maxScanners = 256
)

// everyone is the scanner that stands for all apps together; no app has an empty name here.
const everyone = ""

// scans pauses who looks for open ports. It is safe for concurrent use.
type scans struct {
	mu    sync.Mutex
	apps  map[string]*scanner
	count uint64 // pauses so far
}

// scanner is what one app was refused lately.
type scanner struct {
	misses []miss // at most one more than the limit
	paused time.Time
	last   time.Time
}

type miss struct {
	network string
	addr    netip.AddrPort
	at      time.Time
}

func newScans() *scans { return &scans{apps: map[string]*scanner{}} }

// scannerName keeps an app without a name apart from everyone.
func scannerName(app string) string { return "app " + app }

// paused says for how long the app has to wait yet, 0 if it need not.
func (s *scans) paused(app string) time.Duration {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var left time.Duration
	for _, name := range []string{scannerName(app), everyone} {
		if sc := s.apps[name]; sc != nil {
			left = max(left, sc.paused.Sub(now))
		}
	}
	return left
}

// missed notes a destination that refused, or was denied to, an app. It returns who is paused now and was not before: the
// name of the app or "every app", "" for nobody.
func (s *scans) missed(app, network string, addr netip.AddrPort) (paused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := miss{network, addr, time.Now()}
	if s.note(everyone, m, scanAll) {
		paused = "every app"
	}
	if s.note(scannerName(app), m, scanTargets) && paused == "" {
		paused = app
	}
	if paused != "" {
		s.count++
	}
	return paused
}

func (s *scans) note(name string, m miss, limit int) bool {
	sc := s.apps[name]
	if sc == nil {
		s.makeRoom()
		sc = &scanner{}
		s.apps[name] = sc
	}
	sc.last = m.at
	sc.misses = slices.DeleteFunc(sc.misses, func(o miss) bool {
		return m.at.Sub(o.at) >= scanWindow || o.network == m.network && o.addr == m.addr
	})
	sc.misses = append(sc.misses, m)
	if len(sc.misses) <= limit {
		return false
	}
	sc.misses = sc.misses[:0]
	if sc.paused.After(m.at) {
		return false
	}
	sc.paused = m.at.Add(scanPause)
	return true
}

// makeRoom forgets the app that was quiet for the longest time; the one that stands for all stays, and so does who is paused
// while anybody else is left.
func (s *scans) makeRoom() {
	if len(s.apps) < maxScanners {
		return
	}
	victim, now := "", time.Now()
	for name, sc := range s.apps {
		if name == everyone {
			continue
		}
		v := s.apps[victim]
		if victim == "" || sc.paused.After(now) == v.paused.After(now) && sc.last.Before(v.last) || !sc.paused.After(now) && v.paused.After(now) {
			victim = name
		}
	}
	delete(s.apps, victim)
}

// resume ends all pauses.
func (s *scans) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.apps)
}

func (s *scans) pauses() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
