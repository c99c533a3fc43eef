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
	// How many connections may be at introducing themselves: clients that have authenticated, and strangers who say that they
	// have a token, who are not to take the places of those.
	maxGreeting, maxGreetingOfOne   = 512, 8  // in all, of one client
	maxEnrolling, maxEnrollingOfOne = 128, 16 // in all, of one source

	// Handshakes in a second. More than unverified makes everybody prove his address first (RFC 9000 section 8.1.2), which costs
	// a client one round trip; the others are refused. Who has not proved his address may be somebody else, who is not to use up
	// what its owner may do: such handshakes do not count as that source's, and there are few of them.
	unverified, unverifiedBurst = 50, 100
	unverifiedOfOne             = 10       // in two seconds
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
	sources    map[netip.Prefix]*sourceLimits
}

// sourceLimits are those of one source: for handshakes that it has begun, and for those of which only the address says so.
type sourceLimits struct{ proven, unproven *rate.Limiter }

func newHandshakeLimits() *handshakeLimits {
	return &handshakeLimits{
		unverified: rate.NewLimiter(unverified, unverifiedBurst),
		all:        rate.NewLimiter(handshakes, handshakesBurst),
		sources:    map[netip.Prefix]*sourceLimits{},
	}
}

// mustProve reports whether a handshake has to prove its address first.
func (h *handshakeLimits) mustProve(from netip.Addr) bool {
	now := time.Now()
	return !h.unverified.AllowN(now, 1) || !h.of(from).unproven.AllowN(now, 1)
}

// allow reports whether there may be a handshake from an address, which may be proven or not.
func (h *handshakeLimits) allow(from netip.Addr, proven bool) bool {
	now := time.Now()
	return (!proven || h.of(from).proven.AllowN(now, 1)) && h.all.AllowN(now, 1)
}

// sourceOf is what counts as one: an IPv4 address, or an IPv6 /64.
func sourceOf(from netip.Addr) netip.Prefix {
	from = from.Unmap().WithZone("")
	bits := 64
	if from.Is4() {
		bits = 32
	}
	source, _ := from.Prefix(bits)
	return source
}

func (h *handshakeLimits) of(from netip.Addr) *sourceLimits {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := sourceOf(from)
	l := h.sources[key]
	if l == nil {
		if len(h.sources) >= maxSources {
			clear(h.sources) // all may begin anew; the bound of all together holds
		}
		l = &sourceLimits{rate.NewLimiter(ofOneSource, ofOneBurst), rate.NewLimiter(unverifiedOfOne/2, unverifiedOfOne)}
		h.sources[key] = l
	}
	return l
}
