package flow

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/batch"
)

// Defaults of the zero Gate, and how long the data path waits for people and networks.
const (
	// DefaultHold is how long the client's first bytes are held for a claim (contract, section 3, timing).
	DefaultHold = 3 * time.Second

	// DefaultDialTimeout bounds one dial. A program's own connect gives up after about 130 s; half open flows are
	// bounded, so a black hole must not keep them that long.
	DefaultDialTimeout = 30 * time.Second

	// DefaultMaxFlows and DefaultMaxDials bound what one sandbox may have open and in flight.
	DefaultMaxFlows = 8192
	DefaultMaxDials = 1024

	// maxLooking is how many owners are looked for at one time. Flows that are denied come and go faster than they can be
	// asked for; those beyond are recorded without an owner.
	maxLooking = 1024
)

// Names is the evidence: what the resolver remembers of the answers it gave to this sandbox. All three are required.
type Names struct {
	// Recall returns the live names bound to addr by answers that came over route: those the sandbox asked for, the
	// members of their CNAME chains, and the names that answers of other servers gave it.
	Recall func(route string, addr netip.Addr) (asked, chain, heard []string)

	// Confirm asks the route's own upstream once whether name has addr, and remembers the answer as evidence.
	Confirm func(ctx context.Context, route, name string, addr netip.Addr) bool

	// Hold keeps the evidence for addr alive until release is called.
	Hold func(addr netip.Addr) (release func())
}

// ErrNotDNS is what a [DNSWatch] returns for a flow to port 53 that carries something else and is denied for it.
var ErrNotDNS = errors.New("not dns")

// DNSWatch carries a flow to a DNS server that the program chose itself: questions are judged and recorded one by one.
// It returns when either side ends, with the octets carried each way; both connections stay the caller's.
type DNSWatch func(ctx context.Context, to DNSServer, client, upstream net.Conn) (up, down int64, err error)

// DNSServer is where such a flow goes.
type DNSServer struct {
	Network   string // "tcp" or "udp"
	Addr      netip.AddrPort
	Route, By string // by which route, and who carries the flow there
}

// Gate judges and carries the flows of one sandbox: it is the one [Handler] behind every door. Fields are set before
// the first Handle and not changed afterwards.
type Gate struct {
	// App and Sandbox name whose flows these are, Door how they arrive; all three end up in every event.
	App, Sandbox, Door string

	// Policy judges. Required.
	Policy *policy.Policy

	// Names is the evidence. Required.
	Names Names

	// Routes are the ways out by name; "deny" is none of them. A decision for a route that is missing is denied with
	// reason no-tunnel.
	Routes map[string]Dialer

	// HostAlias maps the addresses under which the sandbox sees the host's loopback to that loopback address. Flows to
	// them are judged, dialled and recorded as flows to the value.
	HostAlias map[netip.Addr]netip.Addr

	// DNS carries flows to port 53; nil relays them like any other.
	DNS DNSWatch

	// Events receives what happened. Required.
	Events event.Sink

	// Process finds who inside opened a flow; nil leaves it out. It does not block, and calls found exactly once, from any
	// goroutine, with nil when nobody knows. It may take its time: the flow's event waits for it up to [OwnerWait], the flow
	// itself only for moments.
	Process func(network string, src, dst netip.AddrPort, found func(*event.Process))

	// Hold, DialTimeout, MaxFlows and MaxDials replace the defaults when positive.
	Hold, DialTimeout  time.Duration
	MaxFlows, MaxDials int

	flows, dials, sending atomic.Int64
	holding               atomic.Int64 // octets of first bytes, see maxHeldBytes
	looking               atomic.Int64 // lookups of owners under way
	datagramStats         batch.Stats
	telling               atomic.Int64 // flows, over or not, whose network-connect still waits for the owner
	serial                atomic.Uint64
	quic                  verdicts
	live                  live
}

// Handle carries one flow from its arrival to its end.
func (g *Gate) Handle(ctx context.Context, a Arrival) {
	if a.Network == "tcp" {
		ended := make(chan struct{})
		g.Open(ctx, a, func() { close(ended) })
		<-ended
		return
	}
	ctx, f := g.enter(ctx, a)
	if f == nil {
		return
	}
	defer f.leave()
	f.datagrams(ctx)
}

// enter counts and registers a flow, and returns its context. It returns nil for a flow too many, which is refused.
func (g *Gate) enter(ctx context.Context, a Arrival) (context.Context, *visit) {
	ctx, cancel := context.WithCancelCause(ctx)
	f := g.newFlow(a)
	f.cancel = cancel
	if g.flows.Add(1) > int64(positive(g.MaxFlows, DefaultMaxFlows)) {
		g.flows.Add(-1)
		f.refuse(policy.Decision{Verdict: policy.Deny, Reason: "limit", Rule: "builtin:flows"})
		cancel(nil)
		return nil, nil
	}
	g.live.add(f)
	f.forget = g.Names.Hold(f.dst.Addr())
	return ctx, f
}

// leave is the end of what enter began.
func (f *visit) leave() {
	f.forget()
	f.live.remove(f)
	f.flows.Add(-1)
	f.cancel(nil)
}

// Drain waits until no flow has bytes of the sandbox left to send, or ctx ends. It is for the moment when the program
// has ended and everything it wrote is on its way.
func (g *Gate) Drain(ctx context.Context) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for g.sending.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Held returns how many octets of first bytes are held beyond each flow's first buffer.
func (g *Gate) Held() int64 { return g.holding.Load() }

// Counters returns how often what happened to datagrams on their way to the upstream. What was thrown away starts with
// "drop-".
func (g *Gate) Counters() map[string]uint64 {
	return map[string]uint64{
		"drop-udp-upstream":        g.datagramStats.Lost.Load(),
		"udp-segmentation-refused": g.datagramStats.Refused.Load(),
	}
}

// Flows returns how many flows are open or have an event yet to be written.
func (g *Gate) Flows() int { return int(g.flows.Load() + g.telling.Load()) }

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}
