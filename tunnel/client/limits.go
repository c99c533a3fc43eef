package client

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/tunnel"
)

// Limits bound what the hosted side can make this machine do. Zero fields stand for the defaults.
type Limits struct {
	// Flows is how many are open at one time (4096), those that wait for a tunnel to come back among them.
	Flows int

	// Dials is how many are under way at one time (1024); DialsPerSecond how many begin (500, and at once what begins within
	// five seconds: what an edge lets one sandbox open).
	Dials, DialsPerSecond int

	// Queries is how many DNS questions are under way at one time (256); QueriesPerSecond how many begin (200, likewise).
	Queries, QueriesPerSecond int

	// Hosts is how many different addresses are dialled within a minute (600).
	Hosts int

	// BytesPerDay bounds what is carried in both directions within 24 hours, in octets; 0 is no bound. Flows are ended when it
	// is reached.
	BytesPerDay uint64
}

// Defaults of [Limits].
const (
	defaultFlows   = 4096
	defaultDials   = 1024
	defaultOpens   = 500
	defaultRate    = 200
	defaultQueries = 256
	defaultHosts   = 600
)

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Flows, defaultFlows}, {&l.Dials, defaultDials}, {&l.DialsPerSecond, defaultOpens}, {&l.Queries, defaultQueries},
		{&l.QueriesPerSecond, defaultRate}, {&l.Hosts, defaultHosts}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// dialBurst is how many seconds' worth of dials may begin at once: a program that starts many flows is none that never stops.
const dialBurst = 5

// Counters are how often each bound has said no, since the start.
type Counters struct {
	Flows, Dials, DialsPerSecond, Hosts, Queries, QueriesPerSecond, BytesPerDay, Asks, Scans, Paused, Parked, Evidence uint64
}

// limiter holds the bounds that are no policy. It is safe for concurrent use.
type limiter struct {
	Limits
	flows, dials, queries atomic.Int64
	dialRate, queryRate   *rate.Limiter

	refused struct{ flows, dials, dialRate, hosts, queries, queryRate, bytes atomic.Uint64 }

	mu    sync.Mutex
	hosts map[netip.Addr]time.Time // when each was dialled last, within the last minute
	swept time.Time

	carried atomic.Uint64 // octets since day began
	day     atomic.Int64  // when it began, in Unix nanoseconds
}

func newLimiter(l Limits) *limiter {
	l = l.withDefaults()
	n := &limiter{Limits: l, hosts: map[netip.Addr]time.Time{},
		dialRate: rate.NewLimiter(rate.Limit(l.DialsPerSecond), dialBurst*l.DialsPerSecond), queryRate: rate.NewLimiter(rate.Limit(l.QueriesPerSecond), l.QueriesPerSecond)}
	n.day.Store(time.Now().UnixNano())
	return n
}

// take adds one to a count that must not pass limit.
func take(n *atomic.Int64, limit int, refused *atomic.Uint64) bool {
	if n.Add(1) > int64(limit) {
		n.Add(-1)
		refused.Add(1)
		return false
	}
	return true
}

// begin takes a place for one dial under way, from before it is judged. done gives it back.
func (l *limiter) begin() (done func(), err error) {
	switch {
	case !l.withinDay():
		return nil, tunnel.Errorf(tunnel.Limit, "bytes per day")
	case !l.dialRate.Allow():
		l.refused.dialRate.Add(1)
		return nil, tunnel.Errorf(tunnel.Limit, "dials per second")
	case !take(&l.dials, l.Dials, &l.refused.dials):
		return nil, tunnel.Errorf(tunnel.Limit, "dials under way")
	}
	return func() { l.dials.Add(-1) }, nil
}

// open takes a place for one open flow, which [limiter.ended] gives back.
func (l *limiter) open(addr netip.Addr) error {
	if !l.host(addr) {
		return tunnel.Errorf(tunnel.Limit, "hosts per minute")
	}
	if !take(&l.flows, l.Flows, &l.refused.flows) {
		return tunnel.Errorf(tunnel.Limit, "open flows")
	}
	return nil
}

func (l *limiter) ended() { l.flows.Add(-1) }

// admitQuery takes a place for one question.
func (l *limiter) admitQuery() (answered func(), err error) {
	if !l.queryRate.Allow() {
		l.refused.queryRate.Add(1)
		return nil, tunnel.Errorf(tunnel.Limit, "questions per second")
	}
	if !take(&l.queries, l.Queries, &l.refused.queries) {
		return nil, tunnel.Errorf(tunnel.Limit, "questions under way")
	}
	return func() { l.queries.Add(-1) }, nil
}

// host notes that an address is dialled and reports whether it is not one too many for a minute.
func (l *limiter) host(addr netip.Addr) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.hosts[addr]; !known && (len(l.hosts) >= l.Hosts || now.Sub(l.swept) >= time.Minute) {
		l.swept = now
		for a, at := range l.hosts {
			if now.Sub(at) >= time.Minute {
				delete(l.hosts, a)
			}
		}
		if len(l.hosts) >= l.Hosts {
			l.refused.hosts.Add(1)
			return false
		}
	}
	l.hosts[addr] = now
	return true
}

// carry counts octets and reports whether the day has room for them.
func (l *limiter) carry(n int) bool {
	if l.BytesPerDay == 0 {
		return true
	}
	return l.carried.Add(uint64(n)) <= l.BytesPerDay || l.withinDay()
}

// withinDay reports whether there is room left, and begins another day when this one is over.
func (l *limiter) withinDay() bool {
	if l.BytesPerDay == 0 {
		return true
	}
	began := l.day.Load()
	if now := time.Now(); now.Sub(time.Unix(0, began)) >= 24*time.Hour && l.day.CompareAndSwap(began, now.UnixNano()) {
		l.carried.Store(0)
	}
	if l.carried.Load() > l.BytesPerDay {
		l.refused.bytes.Add(1)
		return false
	}
	return true
}
