package netstack

import (
	"container/list"
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/weir-dev/weir/flow"
)

// Bounds of every datagram table. What is queued waits for a handler that judges, dials or is slower than the sandbox.
const (
	// maxFlowQueue and maxFlowBytes bound what one flow queues, like a socket's receive buffer.
	maxFlowQueue = 256
	maxFlowBytes = 256 << 10

	// maxTableBytes bounds what all flows of one table queue together.
	maxTableBytes = 8 << 20

	// datagramOverhead is charged for each queued datagram on top of its payload, so that empty ones count too.
	datagramOverhead = 128

	// maxQuote is how much of a flow's last packet is kept for an ICMP error, from the IP header on.
	maxQuote = 128
)

// datagramKey names a datagram flow. For ICMP echo the port of src is the identifier, that of dst is 0.
type datagramKey struct{ src, dst netip.AddrPort }

// datagramTable holds the datagram flows of one protocol. A datagram of a new tuple becomes a flow.Arrival on a goroutine
// of its own, and the datagrams of a tuple queue up until the handler reads them. It knows nothing of packets: udp.go
// and icmp_echo.go translate. No goroutine and no buffer is spent on a flow except the handler's own and what is queued.
//
// A flow ends when its handler closes or rejects it or returns, when it was idle for too long, when it has to make room
// for a newer one, and with the table.
type datagramTable struct {
	cfg   datagramConfig
	start time.Time

	// queued is what all flows hold in bytes, overhead included.
	queued atomic.Int64

	// mu guards what follows and every flow's pending, ordered and elem. It is taken before a flow's own mutex.
	mu       sync.Mutex
	closed   bool
	flows    map[datagramKey]*datagramFlow
	recent   *list.List // of *datagramFlow, the one with the latest inbound datagram first
	pending  int        // flows that were neither accepted nor rejected
	refusals refusals

	// forgetting says that a timer will call forget.
	forgetting bool
}

// datagramConfig is what a table needs of its protocol and of the stack.
type datagramConfig struct {
	network string // flow.Arrival.Network
	handler flow.Handler
	ctx     context.Context

	maxFlows, maxPending int

	// idle returns how long a flow to dst may be quiet.
	idle func(dst netip.AddrPort, answered bool) time.Duration

	// send puts datagrams from key.dst on their way to key.src, and says with how many it is done: sent, or lost for want of
	// room. The error is that of the next one. It does not keep them.
	send func(key datagramKey, datagrams [][]byte) (n int, err error)

	// unreachable tells the sandbox that quote, a packet of its own, was refused. It does not keep quote.
	unreachable func(reason flow.Reason, quote []byte)

	// tooBig tells the sandbox that quote is longer than the path takes, and reports whether it could. Only UDP needs it.
	tooBig func(mtu int, quote []byte) bool

	// spawn runs a handler; it reports false when the stack is closing.
	spawn func(func()) bool

	counters *counters
	names    datagramCounters
}

// datagramCounters are the names of a table's counters.
type datagramCounters struct {
	flows, pending, queue, evicted, refused string
}

// newDatagramTable returns a table that ends when cfg.ctx does.
func newDatagramTable(cfg datagramConfig) *datagramTable {
	t := &datagramTable{
		cfg:    cfg,
		start:  time.Now(),
		flows:  make(map[datagramKey]*datagramFlow),
		recent: list.New(),
	}
	context.AfterFunc(cfg.ctx, t.close)
	return t
}

// deliver takes one datagram from the sandbox, whose packet began with quote, which is copied. It owns payload and never
// blocks.
func (t *datagramTable) deliver(key datagramKey, payload *buffer.View, quote []byte) {
	t.mu.Lock()
	f, reason, verdict := t.admit(key)
	if f != nil {
		t.recent.MoveToFront(f.elem)
		t.push(f, payload, quote)
	} else {
		payload.Release()
	}
	t.mu.Unlock()

	switch verdict {
	case admitNew:
		if !t.cfg.spawn(f.handle) {
			t.end(f, net.ErrClosed)
		}
	case admitRefused:
		t.count(t.cfg.names.refused)
		t.cfg.unreachable(reason, quote)
	case admitPending:
		t.count(t.cfg.names.pending)
	}
}

// admission is what becomes of a datagram.
type admission uint8

const (
	admitKnown   admission = iota // its flow is there
	admitNew                      // a flow was made for it
	admitRefused                  // its tuple was refused a moment ago
	admitPending                  // too many flows wait for a verdict
	admitClosed                   // the table has ended
)

// admit finds or makes the flow of key. The caller holds t.mu.
func (t *datagramTable) admit(key datagramKey) (*datagramFlow, flow.Reason, admission) {
	if t.closed {
		return nil, 0, admitClosed
	}
	if f, ok := t.flows[key]; ok {
		return f, 0, admitKnown
	}
	if reason, ok := t.refusals.lookup(key, t.now()); ok {
		return nil, reason, admitRefused
	}
	if t.pending >= t.cfg.maxPending {
		return nil, 0, admitPending
	}
	if len(t.flows) >= t.cfg.maxFlows {
		t.evict()
	}
	f := newDatagramFlow(t, key)
	f.elem = t.recent.PushFront(f)
	f.pending = true
	t.pending++
	t.flows[key] = f
	f.idleTimer = time.AfterFunc(t.cfg.idle(key.dst, false), f.checkIdle)
	t.count(t.cfg.names.flows)
	return f, 0, admitNew
}

// push queues payload on f within the bounds of the flow and of the table. The caller holds t.mu.
func (t *datagramTable) push(f *datagramFlow, payload *buffer.View, quote []byte) {
	f.ordered = f.touch()
	cost := datagramCost(payload)
	if t.queued.Load()+cost > maxTableBytes || !f.push(payload, quote) {
		payload.Release()
		t.count(t.cfg.names.queue)
		return
	}
	t.queued.Add(cost)
}

func datagramCost(p *buffer.View) int64 { return int64(p.Size()) + datagramOverhead }

// evict ends the flow that was quiet for longest. recent is ordered by inbound datagrams, so a flow at its end that was
// answered since gets a second chance. The caller holds t.mu.
func (t *datagramTable) evict() {
	for range t.recent.Len() {
		f := t.recent.Back().Value.(*datagramFlow)
		if f.last.Load() <= f.ordered {
			break
		}
		f.ordered = f.last.Load()
		t.recent.MoveToFront(f.elem)
	}
	t.endLocked(t.recent.Back().Value.(*datagramFlow), errEvicted)
	t.count(t.cfg.names.evicted)
}

// end takes f out of the table, and its handler's conn fails with err. It reports whether f was still there.
func (t *datagramTable) end(f *datagramFlow, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endLocked(f, err)
}

func (t *datagramTable) endLocked(f *datagramFlow, err error) bool {
	if t.flows[f.key] != f {
		return false
	}
	delete(t.flows, f.key)
	t.recent.Remove(f.elem)
	t.settle(f)
	f.idleTimer.Stop()
	f.shut(err)
	return true
}

// settle says that f no longer waits for a verdict. The caller holds t.mu.
func (t *datagramTable) settle(f *datagramFlow) {
	if f.pending {
		f.pending = false
		t.pending--
	}
}

// refuse ends f and remembers its tuple for a moment.
func (t *datagramTable) refuse(f *datagramFlow, reason flow.Reason) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.endLocked(f, errRejected) {
		return false
	}
	if t.closed {
		return true
	}
	t.refusals.add(f.key, reason, t.now())
	if !t.forgetting {
		t.forgetting = true
		time.AfterFunc(refusalMemory, t.forget)
	}
	return true
}

// forget drops the refusals that are too old, and comes back while there are others.
func (t *datagramTable) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.refusals.expire(t.now())
	t.forgetting = next > 0 && !t.closed
	if t.forgetting {
		time.AfterFunc(next, t.forget)
	}
}

// close ends every flow and refuses new ones.
func (t *datagramTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, f := range t.flows {
		t.endLocked(f, net.ErrClosed)
	}
}

// now is the time since the table was made; it is monotonic and fits an atomic.
func (t *datagramTable) now() time.Duration { return time.Since(t.start) }

func (t *datagramTable) count(name string) { t.cfg.counters.add(name, 1) }
