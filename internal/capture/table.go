package capture

import (
	"container/list"
	"net/netip"
	"strconv"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/sniff"
)

// Bounds of the flow table. Where one is reached, the flow that was idle longest is reported and forgotten.
const (
	// MaxFlows is the number of flows that are remembered.
	MaxFlows = 1 << 16

	// MaxHeld bounds the octets that all flows together keep until their claims are known.
	MaxHeld = 64 << 20

	// udpIdle is how long, in the time of the capture, a UDP or ICMP flow may be silent until the next packet is a new
	// flow.
	udpIdle = 120 * time.Second
)

// flowKey is a 5-tuple without direction: a is the lower endpoint. For ICMP both ports are the echo identifier.
type flowKey struct {
	proto uint8
	a, b  netip.AddrPort
}

// keyOf returns the key of a packet and the side that sent it: 0 is a, 1 is b.
func keyOf(proto uint8, src, dst netip.AddrPort) (key flowKey, side int) {
	if dst.Compare(src) < 0 {
		return flowKey{proto, dst, src}, 1
	}
	return flowKey{proto, src, dst}, 0
}

// flow is one connection or exchange. Once it is reported only what recognises its packets remains.
type flow struct {
	key         flowKey
	id          uint64
	first, last time.Time
	opener      int  // the side whose packet was seen first
	client      int  // the side that opened the flow, as far as known
	sure        bool // client is known, not guessed
	reported    bool
	dns         bool // carried DNS messages: they are reported instead

	sniffed  sniff.Hint   // what the client's first octets claim
	late     []sniff.Hint // what hellos further on claim
	cost     int
	isn      [2]uint32 // initial sequence numbers, once seen
	hasISN   [2]bool
	closed   bool        // a FIN or RST was seen
	stream   *connection // TCP until reported
	exchange *exchange   // UDP
}

func (f *flow) endpoint(side int) netip.AddrPort {
	if side == 0 {
		return f.key.a
	}
	return f.key.b
}

// know says for certain which side is the client.
func (f *flow) know(side int) {
	if !f.sure {
		f.client, f.sure = side, true
	}
}

// guess decides by the ports when nothing else told the client: servers have the lower, well-known ones. Ports alike
// leave it to who was seen first.
func (f *flow) guess() {
	if f.sure {
		return
	}
	f.client = f.opener
	a, b := f.key.a.Port(), f.key.b.Port()
	switch low, high := min(a, b), max(a, b); {
	case low >= 1024 && high < 32768, low >= 32768, low == high, high < 1024:
	case low == a:
		f.client = 1
	default:
		f.client = 0
	}
}

// table is the flows of a capture.
type table struct {
	sink  event.Sink
	stats *Stats
	asked questions

	flows map[flowKey]*list.Element
	idle  list.List // of *flow, the longest idle in front
	held  int
	ids   uint64
}

// find returns the flow of a key and marks it as active.
func (t *table) find(key flowKey, now time.Time) *flow {
	e := t.flows[key]
	if e == nil {
		return nil
	}
	f := e.Value.(*flow)
	if key.proto != protoTCP && now.Sub(f.last) > udpIdle {
		t.remove(f)
		return nil
	}
	t.idle.MoveToBack(e)
	f.last = now
	return f
}

// open makes a flow whose first packet came from side.
func (t *table) open(key flowKey, side int, now time.Time) *flow {
	for len(t.flows) >= MaxFlows {
		t.evict()
	}
	t.ids++
	t.stats.Flows++
	f := &flow{key: key, id: t.ids, first: now, last: now, opener: side, client: side}
	t.flows[key] = t.idle.PushBack(f)
	return f
}

// remove reports a flow if that was not done yet, and forgets it.
func (t *table) remove(f *flow) {
	t.finish(f)
	t.idle.Remove(t.flows[f.key])
	delete(t.flows, f.key)
}

func (t *table) evict() {
	f := t.idle.Front().Value.(*flow)
	if !f.reported {
		t.stats.Evicted++
	}
	t.remove(f)
}

// account brings the sum of what is kept up to date after f took a packet.
func (t *table) account(f *flow, cost int) {
	t.held += cost - f.cost
	f.cost = cost
	for t.held > MaxHeld && t.idle.Len() > 0 {
		t.evict()
	}
}

// finish reports a flow of which no more packets will come.
func (t *table) finish(f *flow) {
	switch {
	case f.reported:
		return
	case f.stream != nil:
		t.advance(f, true)
	case f.exchange != nil:
		f.exchange.claim(f)
	}
	t.report(f)
}

// end reports all flows that are left, in the order in which they began.
func (t *table) end() {
	left := make([]*flow, 0, len(t.flows))
	for e := t.idle.Front(); e != nil; e = e.Next() {
		left = append(left, e.Value.(*flow))
	}
	sortByID(left)
	for _, f := range left {
		t.finish(f)
	}
	t.asked.end()
}

// report writes the line of a flow, once, and lets go of what it kept.
func (t *table) report(f *flow) {
	if f.reported {
		return
	}
	f.reported, f.stream = true, nil
	if f.exchange != nil {
		f.exchange.release()
	}
	t.held -= f.cost
	f.cost = 0
	if f.dns {
		t.stats.Flows--
		return
	}
	f.guess()
	t.sink.Emit(&event.Event{Time: f.first, Flow: strconv.FormatUint(f.id, 10), Details: f.connect()})
}
