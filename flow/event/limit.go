package event

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many events of one kind a log takes: Burst at once, Rate a second on the long run. What was denied has a bucket of
// its own, so that a flood of denials, which cost the program nothing, never displaces the record of what was carried. The
// first event about a destination has a reserve beside both: the one that matters is not lost in a flood of others.
//
// No program that gets work done reaches these: installing a package of a thousand files opens fewer than a hundred
// connections. They bound what a flood can write: 200 denials a second take some nine minutes to fill one file of 64 MiB.
const (
	CarriedRate, CarriedBurst = 500, 20000
	DeniedRate, DeniedBurst   = 200, 10000
	FirstRate, FirstBurst     = 50, 2000
	AlertRate, AlertBurst     = 10, 1000
	TunnelRate, TunnelBurst   = 10, 1000 // clients that come and go

	// maxKnown is how many destinations are remembered as not new, twice: see known.
	maxKnown = 8192

	// summaryEvery is how often an event about suppressed events is written while there are any.
	summaryEvery = time.Second
)

// suppressedWhat is [Dropped.What] of events that the log did not take because there were too many. "events" are those that
// could not be written.
const suppressedWhat = "events-suppressed"

// limiter decides which events are written. It never blocks, and it is exact: what it refuses is counted by the queue.
type limiter struct {
	mu      sync.Mutex
	buckets [kindSlots][2]*bucket // by kind, and whether denied; nil: no limit
	known   known
}

// bucket is what one kind of event may use up.
type bucket struct{ all, first *rate.Limiter }

func newLimiter() *limiter {
	l := &limiter{known: known{seed: maphash.MakeSeed()}}
	for _, k := range []Kind{KindConnect, KindClose, KindDNSQuery} {
		l.buckets[slot(k)] = [2]*bucket{
			{rate.NewLimiter(CarriedRate, CarriedBurst), rate.NewLimiter(FirstRate, FirstBurst)},
			{rate.NewLimiter(DeniedRate, DeniedBurst), rate.NewLimiter(FirstRate, FirstBurst)},
		}
	}
	alerts := &bucket{rate.NewLimiter(AlertRate, AlertBurst), rate.NewLimiter(0, 0)}
	l.buckets[slot(KindAlert)] = [2]*bucket{alerts, alerts}
	tunnels := &bucket{rate.NewLimiter(TunnelRate, TunnelBurst), rate.NewLimiter(0, 0)}
	l.buckets[slot(KindTunnelUp)] = [2]*bucket{tunnels, tunnels}
	l.buckets[slot(KindTunnelDown)] = [2]*bucket{tunnels, tunnels}
	return l
}

// allow reports whether the event is to be written.
func (l *limiter) allow(e *Event) bool {
	kind := slot(e.kind())
	about, denied := subjectOf(e)
	side := 0
	if denied {
		side = 1
	}
	b := l.buckets[kind][side]
	if b == nil {
		return true
	}
	about.kind = kind
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !b.all.AllowN(now, 1) && (l.known.has(about) || !b.first.AllowN(now, 1)) {
		return false // about what is not written nobody knows: the next event is the first one still
	}
	l.known.add(about)
	return true
}

// subject is what an event is about, to tell the first one from the others.
type subject struct {
	kind             int
	verdict, because string
	host, protocol   string
	dst              netip.AddrPort
}

// subjectOf names what the event is about and whether that was denied.
func subjectOf(e *Event) (s subject, denied bool) {
	switch d := e.Details.(type) {
	case *Connect:
		s = subject{verdict: d.Verdict, because: d.Reason, host: d.Hostname, protocol: d.Protocol}
		if d.Hostname == "" {
			s.dst = d.Dst
		} else {
			s.dst = netip.AddrPortFrom(netip.Addr{}, d.Dst.Port())
		}
		return s, d.Verdict == "deny"
	case *Close:
		return subject{verdict: d.Close, because: d.Reason, host: d.Hostname, protocol: d.Protocol, dst: d.Dst}, false
	case *DNSQuery:
		return subject{verdict: d.Verdict, because: d.Reason, host: d.Hostname}, d.Verdict == "deny"
	}
	return s, false
}

// known remembers subjects in bounded memory: a set that is full becomes the old one, and the old one before it is
// forgotten. Hashes stand for the subjects; their seed is secret, so that nobody can make one pass for another.
type known struct {
	seed     maphash.Seed
	new, old map[uint64]struct{}
}

func (k *known) has(s subject) bool {
	h := maphash.Comparable(k.seed, s)
	_, now := k.new[h]
	_, before := k.old[h]
	return now || before
}

func (k *known) add(s subject) {
	h := maphash.Comparable(k.seed, s)
	if _, ok := k.new[h]; ok {
		return
	}
	if k.new == nil || len(k.new) >= maxKnown {
		k.old, k.new = k.new, make(map[uint64]struct{})
	}
	k.new[h] = struct{}{}
}
