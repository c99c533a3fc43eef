package edge

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// What strangers may do.
const (
	// maxGreeting is how many connections may be at introducing themselves.
	maxGreeting = 512

	// Handshakes in a second. More than unverified makes everybody prove his address first (RFC 9000 section 8.1.2), which costs
	// a client one round trip; the others are refused.
	unverified, unverifiedBurst = 50, 100
	handshakes, handshakesBurst = 400, 800 // of all addresses
	ofOneSource, ofOneBurst     = 20, 60   // of an IPv4 address, or an IPv6 /64
	maxSources                  = 8192     // that are remembered
)

// Counters are what became of things at an edge.
type Counters struct {
	Handshakes, HandshakesRefused, BadHellos atomic.Uint64 // connections; those over a bound, those that did not introduce themselves
	Sessions                                 atomic.Int64  // now
	Joined, Superseded, Revoked, Refused     atomic.Uint64 // sessions; Refused are those over a bound

	OpensLimited, NoClient, Failovers atomic.Uint64 // opens and questions
	UDPLimited                        atomic.Uint64 // datagrams over the sandbox's share
	Rehomed                           atomic.Uint64 // UDP flows that went on on another session
}

// Values are the counters by name.
func (c *Counters) Values() map[string]uint64 {
	return map[string]uint64{
		"handshakes": c.Handshakes.Load(), "handshakes_refused": c.HandshakesRefused.Load(), "bad_hellos": c.BadHellos.Load(),
		"sessions": uint64(max(c.Sessions.Load(), 0)), "joined": c.Joined.Load(), "superseded": c.Superseded.Load(), "revoked": c.Revoked.Load(), "refused": c.Refused.Load(),
		"opens_limited": c.OpensLimited.Load(), "no_client": c.NoClient.Load(), "failovers": c.Failovers.Load(),
		"udp_limited": c.UDPLimited.Load(), "rehomed": c.Rehomed.Load(),
	}
}

// handshakeLimits bounds what anybody can make the edge do who reaches it.
type handshakeLimits struct {
	mu         sync.Mutex
	unverified *rate.Limiter
	all        *rate.Limiter
	sources    map[netip.Prefix]*rate.Limiter
}

func newHandshakeLimits() *handshakeLimits {
	return &handshakeLimits{
		unverified: rate.NewLimiter(unverified, unverifiedBurst),
		all:        rate.NewLimiter(handshakes, handshakesBurst),
		sources:    map[netip.Prefix]*rate.Limiter{},
	}
}

// mustProve reports whether a handshake has to prove its address first.
func (h *handshakeLimits) mustProve() bool { return !h.unverified.Allow() }

// allow reports whether there may be a handshake from an address.
func (h *handshakeLimits) allow(from netip.Addr) bool {
	h.mu.Lock()
	source := h.source(from)
	h.mu.Unlock()
	now := time.Now()
	return source.AllowN(now, 1) && h.all.AllowN(now, 1)
}

// source is called with the lock held.
func (h *handshakeLimits) source(from netip.Addr) *rate.Limiter {
	from = from.Unmap()
	bits := 64
	if from.Is4() {
		bits = 32
	}
	key, _ := from.Prefix(bits)
	l := h.sources[key]
	if l == nil {
		if len(h.sources) >= maxSources {
			clear(h.sources) // all may begin anew; the bound of all together holds
		}
		l = rate.NewLimiter(ofOneSource, ofOneBurst)
		h.sources[key] = l
	}
	return l
}
