package client

import "sync/atomic"

// pause is the user's own hold on everything new.
type pause struct {
	on      atomic.Bool
	refused atomic.Uint64
}

func (p *pause) is() bool    { return p.on.Load() }
func (p *pause) set(on bool) { p.on.Store(on) }

// Pause refuses new flows and questions until it is called with false. Flows that are open go on.
func (h *Handler) Pause(on bool) { h.paused.set(on) }

// Paused reports whether new flows are refused.
func (h *Handler) Paused() bool { return h.paused.is() }

// Resume lets those go on who were paused for looking for open ports.
func (h *Handler) Resume() { h.scans.resume() }

// Counters returns how often each bound has said no.
func (h *Handler) Counters() Counters {
	r := &h.limits.refused
	c := Counters{Flows: r.flows.Load(), Dials: r.dials.Load(), DialsPerSecond: r.dialRate.Load(), Hosts: r.hosts.Load(),
		Queries: r.queries.Load(), QueriesPerSecond: r.queryRate.Load(), BytesPerDay: r.bytes.Load(),
		Scans: h.scans.pauses(), Paused: h.paused.refused.Load()}
	h.park.mu.Lock()
	c.Parked = h.park.refused
	h.park.mu.Unlock()
	h.evidence.mu.Lock()
	c.Evidence = h.evidence.evicted
	h.evidence.mu.Unlock()
	if h.asker != nil {
		c.Asks = h.asker.droppedSoFar()
	}
	return c
}

// MaxFlows is how many flows may be open at one time.
func (h *Handler) MaxFlows() int { return h.limits.Limits.Flows }
