//go:build linux

package tproxy

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weir-dev/weir/flow"
)

// Bounds of what waits for a verdict.
const (
	maxQueue      = 64        // datagrams of one flow
	maxQueueBytes = 256 << 10 // octets of one flow
	maxTableBytes = 8 << 20   // octets of all flows

	// refusalMemory is how long a refused tuple is answered from memory; maxRefusals is how many are remembered.
	refusalMemory = 500 * time.Millisecond
	maxRefusals   = 1024
)

// udpKey names a flow.
type udpKey struct{ src, dst netip.AddrPort }

// udpTable holds the UDP flows of a door.
type udpTable struct {
	door  *Door
	start time.Time

	mu       sync.Mutex
	flows    map[udpKey]*udpFlow
	pending  int
	queued   int
	refusals map[udpKey]refusal
}

type refusal struct {
	why   flow.Reason
	until time.Time
}

func newUDPTable(d *Door) *udpTable {
	return &udpTable{door: d, start: time.Now(), flows: map[udpKey]*udpFlow{}, refusals: map[udpKey]refusal{}}
}

// deliver takes one datagram that l received; payload is the caller's again afterwards.
func (t *udpTable) deliver(l *udpListener, key udpKey, payload []byte) {
	d := t.door
	t.mu.Lock()
	f := t.flows[key]
	begun := f == nil
	if begun {
		if r, ok := t.refusals[key]; ok && time.Now().Before(r.until) {
			t.mu.Unlock()
			d.counters.add(dropUDPRefused)
			d.icmp.send(key.src, key.dst, len(payload), r.why)
			return
		}
		if t.pending >= d.cfg.Limits.HalfOpenUDP {
			t.mu.Unlock()
			d.counters.add(dropUDPPending)
			return
		}
		if len(t.flows) >= d.cfg.Limits.UDPFlows {
			t.evict()
		}
		f = newUDPFlow(t, l, key)
		t.flows[key] = f
		t.pending++
	}
	t.push(f, payload)
	t.mu.Unlock()
	if begun {
		d.counters.add(countUDP)
		d.flows.Go(func() { f.handle(l.handler) })
	}
}

// push queues a copy of the payload within all bounds. The caller holds t.mu.
func (t *udpTable) push(f *udpFlow, payload []byte) {
	if len(f.queue) >= maxQueue || f.queuedBytes+len(payload) > maxQueueBytes || t.queued+len(payload) > maxTableBytes {
		t.door.counters.add(dropUDPQueue)
		return
	}
	f.queue = append(f.queue, append([]byte(nil), payload...))
	f.queuedBytes += len(payload)
	f.lastPayload = len(payload)
	t.queued += len(payload)
	f.wake()
}

// pushBehind queues what the flow's own socket gave, behind what came before.
func (t *udpTable) pushBehind(f *udpFlow, payload []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.push(f, payload)
}

// pop takes the oldest datagram that is queued for f, nil when there is none.
func (t *udpTable) pop(f *udpFlow) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(f.queue) == 0 {
		return nil
	}
	b := f.queue[0]
	f.queue = f.queue[1:]
	if len(f.queue) == 0 {
		f.queue = nil
	}
	f.queuedBytes -= len(b)
	t.queued -= len(b)
	if b == nil {
		b = []byte{} // an empty datagram is one, too
	}
	return b
}

// waiting reports whether a datagram is queued for f.
func (t *udpTable) waiting(f *udpFlow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(f.queue) > 0
}

// evict ends the flow that was quiet for longest. The caller holds t.mu.
func (t *udpTable) evict() {
	var oldest *udpFlow
	for _, f := range t.flows {
		if oldest == nil || f.last.Load() < oldest.last.Load() {
			oldest = f
		}
	}
	if oldest != nil {
		t.end(oldest, errIdle)
		t.door.counters.add(countEvicted)
	}
}

// end takes f out of the table and closes its socket. It reports whether f was still there. The caller holds t.mu.
func (t *udpTable) end(f *udpFlow, why error) bool {
	if t.flows[f.key] != f {
		return false
	}
	delete(t.flows, f.key)
	t.settle(f)
	t.queued -= f.queuedBytes
	f.queue, f.queuedBytes = nil, 0
	f.ended = why
	f.idle.Stop()
	if f.conn != nil {
		f.conn.Close()
	}
	return true
}

// settle says that f no longer waits for a verdict. The caller holds t.mu.
func (t *udpTable) settle(f *udpFlow) {
	if !f.settled {
		f.settled = true
		t.pending--
	}
}

// refuse ends f and remembers its tuple for a moment.
func (t *udpTable) refuse(f *udpFlow, why flow.Reason) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.end(f, net.ErrClosed) {
		return false
	}
	now := time.Now()
	if len(t.refusals) >= maxRefusals {
		for k, r := range t.refusals {
			if now.After(r.until) {
				delete(t.refusals, k)
			}
		}
	}
	if len(t.refusals) < maxRefusals {
		t.refusals[f.key] = refusal{why, now.Add(refusalMemory)}
	}
	return true
}

// close ends all flows.
func (t *udpTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		t.end(f, net.ErrClosed)
	}
}

// now is the time since the table was made; it is monotonic, fits an atomic, and is the same for all flows.
func (t *udpTable) now() time.Duration { return time.Since(t.start) }

func (t *udpTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}
