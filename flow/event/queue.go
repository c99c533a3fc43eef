package event

import (
	"sync"
	"time"
)

// eventOverhead is what one queued event counts beside its strings, in octets.
const eventOverhead = 512

// queue is the ring between the emitters and the writer: bounded in events and in octets. Events stay in it until they
// have been written, so that a stalled writer holds nothing beside it.
type queue struct {
	mu       sync.Mutex
	ring     []*Event
	head, n  int
	bytes    int
	maxBytes int
	closed   bool

	// accepted and finished count events that went in and came out: what Flush compares.
	accepted, finished uint64

	// pending are drops that no line has reported yet, total those since the start; last is the latest event dropped.
	pending, total counts
	last           *Event

	// suppressed are events that the limiter refused since the last summary, refused those since the start;
	// lastSuppressed is the latest of them, summarized when the last summary was queued.
	suppressed, refused counts
	lastSuppressed      *Event
	summarized          time.Time

	// wake has a token when there is something new for the writer.
	wake chan struct{}
}

// counts has one counter per kind; see slot.
type counts [kindSlots]uint64

// kindSlots is the number of kinds that are counted apart, with the last one for all others.
const kindSlots = 10

// kinds is the order of the counters.
var kinds = [kindSlots]Kind{KindConnect, KindClose, KindDNSQuery, KindSandboxStart, KindSandboxExit, KindAlert, KindDropped, KindTunnelUp, KindTunnelDown, "other"}

func slot(k Kind) int {
	for i := range kindSlots - 1 {
		if kinds[i] == k {
			return i
		}
	}
	return kindSlots - 1
}

// put takes the event, or counts it as dropped when the ring is full or closed. The end of a sandbox comes after the last
// summary of what was suppressed.
func (q *queue) put(e *Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.kind() == KindSandboxExit {
		q.summarize(e.Time)
	}
	if !q.push(e) {
		q.drop(e)
	}
}

// push takes the event if there is room. The caller holds the lock.
func (q *queue) push(e *Event) bool {
	size := eventSize(e)
	if q.closed || q.n == len(q.ring) || q.bytes+size > q.maxBytes {
		return false
	}
	q.ring[(q.head+q.n)%len(q.ring)] = e
	q.n++
	q.bytes += size
	q.accepted++
	q.signal()
	return true
}

// suppress counts an event that is not to be written.
func (q *queue) suppress(e *Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.suppressed == (counts{}) {
		q.signal()
	}
	i := slot(e.kind())
	q.suppressed[i]++
	q.refused[i]++
	q.lastSuppressed = e
}

// summarize queues an event about what was suppressed since the last one; where there is no room, the next will say it.
// The caller holds the lock.
func (q *queue) summarize(now time.Time) {
	if q.suppressed == (counts{}) {
		return
	}
	e := q.suppressed.event(suppressedWhat, q.lastSuppressed)
	e.Time = now
	if q.push(e) {
		q.suppressed, q.summarized = counts{}, now
	}
}

// summarizeEvery is summarize if the last time was every ago. It reports whether something is left to say.
func (q *queue) summarizeEvery(every time.Duration) (owed bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.summarized) >= every {
		q.summarize(now)
	}
	return q.suppressed != (counts{})
}

// peek appends up to limit of the oldest events to batch and leaves them in the ring.
func (q *queue) peek(batch []*Event, limit int) (_ []*Event, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range min(limit, q.n) {
		batch = append(batch, q.ring[(q.head+i)%len(q.ring)])
	}
	return batch, q.closed
}

// pop removes the n oldest events; those from written on count as dropped.
func (q *queue) pop(n, written int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range n {
		e := q.ring[q.head]
		q.ring[q.head] = nil
		q.head = (q.head + 1) % len(q.ring)
		q.bytes -= eventSize(e)
		if i >= written {
			q.drop(e)
		}
	}
	q.n -= n
	q.finished += uint64(n)
}

// drop counts an event that will not be written. What a summary would have said, the next one has to say. The caller holds
// the lock.
func (q *queue) drop(e *Event) {
	if d, ok := e.Details.(*Dropped); ok && d.What == suppressedWhat && q.lastSuppressed != nil {
		for _, k := range d.ByKind {
			q.suppressed[slot(k.Kind)] += k.Count
		}
		q.signal()
		return
	}
	i := slot(e.kind())
	q.pending[i]++
	q.total[i]++
	q.last = e
	q.signal()
}

// owed returns the drops that no line has reported yet, as an event without a time; nil when there are none.
func (q *queue) owed() (*Event, counts) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending == (counts{}) {
		return nil, counts{}
	}
	return q.pending.event("events", q.last), q.pending
}

// event is a line about the counts, without a time; like tells whose they are.
func (c *counts) event(what string, like *Event) *Event {
	d := &Dropped{What: what}
	for i, n := range c {
		if n > 0 {
			d.Count += n
			d.ByKind = append(d.ByKind, KindCount{Kind: kinds[i], Count: n})
		}
	}
	return &Event{App: like.App, Sandbox: like.Sandbox, Details: d}
}

// reported takes off what a written line has reported.
func (q *queue) reported(c counts) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range c {
		q.pending[i] -= c[i]
	}
}

// progress returns how many events went in and came out so far.
func (q *queue) progress() (accepted, finished uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.accepted, q.finished
}

// suppressedSince returns how many events the limiter refused since the start.
func (q *queue) suppressedSince() counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refused
}

// unsaid returns what was suppressed and no summary says, as an event without a time, once the queue is shut; nil when
// there is nothing.
func (q *queue) unsaid() *Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed || q.suppressed == (counts{}) {
		return nil
	}
	return q.suppressed.event(suppressedWhat, q.lastSuppressed)
}

// said takes off what a written line has said.
func (q *queue) said() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.suppressed = counts{}
}

// dropped returns how many events were dropped since the start, and how many of them no line has reported.
func (q *queue) dropped() (total, pending counts) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total, q.pending
}

// shut makes put drop everything from now on and wakes the writer; it reports whether it was the first to do so.
func (q *queue) shut() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := !q.closed
	if first {
		q.summarize(time.Now())
	}
	q.closed = true
	q.signal()
	return first
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (c counts) sum() (n uint64) {
	for _, v := range c {
		n += v
	}
	return n
}

// eventSize is what an event counts against the ring's bound in octets. The event does not change while it is queued.
func eventSize(e *Event) int {
	n := eventOverhead + len(e.App) + len(e.Sandbox) + len(e.Flow)
	if e.Details != nil {
		n += e.Details.size()
	}
	return n
}
