package client

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// Flow is one open flow as a display shows it. Everything that came from the edge in it is hostile text.
type Flow struct {
	ID             uint64 // of this process, for [Handler.Kill]
	Owner          tunnel.Owner
	Flow           string // the id on the hosted side
	Network        string
	Addr           netip.AddrPort // what was dialled
	Name           string         // by which the rule let it pass, or which it is said to have; see Confirmed
	Confirmed      bool           // this machine's own resolver gave Name this address
	Rule           string
	Verdict        string // "allow" or "would-deny"
	Began, Active  time.Time
	Sent, Received uint64 // octets to and from the destination
	WaitsForTunnel bool   // a UDP flow whose tunnel broke
}

// flow is one open flow.
type flow struct {
	h     *Handler
	id    uint64
	open  tunnel.Open
	found finding
	began time.Time

	sent, received atomic.Uint64
	active         atomic.Int64 // when something passed last, in nanoseconds since began
	done           atomic.Bool

	mu      sync.Mutex
	kill    func(*tunnel.Error) // nil until it is connected
	waiting func() bool
}

// key names the flow across sessions; "" when the edge gave it no id.
func (f *flow) key() string {
	if f.open.Flow == "" {
		return ""
	}
	return strings.Join([]string{f.open.Space, f.open.Sandbox, f.open.App, f.open.Flow, f.open.Network, f.open.Addr.String()}, "\x00")
}

// count adds octets that were carried and reports whether the flow may go on.
func (f *flow) count(sent, received int) bool {
	f.sent.Add(uint64(sent))
	f.received.Add(uint64(received))
	f.active.Store(int64(time.Since(f.began)))
	return f.h.limits.carry(sent + received)
}

// end takes the flow off the books, once.
func (f *flow) end(cause string, err error) {
	if !f.done.CompareAndSwap(false, true) {
		return
	}
	f.h.flows.remove(f)
	f.h.limits.ended()
	f.h.told.closed(f, cause, err)
}

func (f *flow) snapshot() Flow {
	f.mu.Lock()
	waiting := f.waiting != nil && f.waiting()
	f.mu.Unlock()
	return Flow{ID: f.id, Owner: f.open.Owner, Flow: f.open.Flow, Network: f.open.Network, Addr: f.open.Addr, Name: f.found.name,
		Confirmed: f.found.confirmed, Rule: f.found.rule, Verdict: f.found.verdict.String(), Began: f.began,
		Active: f.began.Add(time.Duration(f.active.Load())), Sent: f.sent.Load(), Received: f.received.Load(), WaitsForTunnel: waiting}
}

// connected says how the flow can be ended from outside.
func (f *flow) connected(kill func(*tunnel.Error), waiting func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kill, f.waiting = kill, waiting
}

// flows are those that are open. It is safe for concurrent use.
type flows struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*flow
}

func (l *flows) add(h *Handler, o tunnel.Open, found finding) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	f := &flow{h: h, id: l.last, open: o, found: found, began: time.Now()}
	l.open[f.id] = f
	return f
}

func (l *flows) remove(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, f.id)
}

func (l *flows) list() []*flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*flow, 0, len(l.open))
	for _, f := range l.open {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *flow) int { return int(a.id) - int(b.id) })
	return list
}

// Flows returns the open flows, the oldest first.
func (h *Handler) Flows() []Flow {
	list := h.flows.list()
	out := make([]Flow, len(list))
	for i, f := range list {
		out[i] = f.snapshot()
	}
	return out
}

// Kill ends a flow; both its ends see it reset. It reports whether the flow was open.
func (h *Handler) Kill(id uint64) bool {
	h.flows.mu.Lock()
	f := h.flows.open[id]
	h.flows.mu.Unlock()
	if f == nil {
		return false
	}
	return f.stop(errKilled)
}

// KillAll ends every flow.
func (h *Handler) KillAll() {
	for _, f := range h.flows.list() {
		f.stop(errKilled)
	}
}

func (f *flow) stop(why *tunnel.Error) bool {
	f.mu.Lock()
	kill := f.kill
	f.mu.Unlock()
	if kill == nil {
		return false
	}
	kill(why)
	return true
}

// book turns what happens into events.
type book struct {
	sink   event.Sink // may be nil
	client string
}

func (b book) emit(o tunnel.Owner, flow string, d event.Details) {
	if b.sink == nil {
		return
	}
	b.sink.Emit(&event.Event{Time: time.Now(), App: o.App, Sandbox: o.Sandbox, Flow: flow, Details: d})
}

// judged tells of a flow that was let pass or not.
func (b book) judged(o tunnel.Open, f finding) {
	source := "none"
	if f.name != "" {
		source = "dns"
	}
	names := f.names
	if !f.confirmed && f.name != "" {
		source = "none"
	}
	b.emit(o.Owner, o.Flow, &event.Connect{Hostname: f.name, NameSource: source, Names: names, Dst: o.Addr, Protocol: o.Network,
		Route: "tunnel", Client: b.client, Verdict: f.verdict.String(), Rule: f.rule, Reason: f.reason})
}

// closed tells of a flow's end.
func (b book) closed(f *flow, cause string, err error) {
	d := &event.Close{Hostname: f.found.name, Dst: f.open.Addr, Protocol: f.open.Network, Route: "tunnel", Client: b.client, Verdict: f.found.verdict.String(),
		BytesSent: f.sent.Load(), BytesReceived: f.received.Load(), Duration: time.Since(f.began), Close: cause}
	if cause == "error" && err != nil {
		d.Error = err.Error()
	}
	b.emit(f.open.Owner, f.open.Flow, d)
}

// alert tells of what a person should look at.
func (b book) alert(o tunnel.Owner, what, subject string) {
	b.emit(o, "", &event.Alert{What: what, Subject: subject})
}
