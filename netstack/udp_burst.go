package netstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Bounds of a burst: how many flows it may have datagrams of, how many frames may be read before the first of them goes on
// its way, and how much one flow's datagrams hold. The most that one frame brings is less.
const (
	maxBurstFlows  = 8
	maxBurstFrames = 64
	maxBurstBytes  = 64 << 10
)

// countUDPShort counts the frames that took the short way.
const countUDPShort = "udp-short-way"

// udpBurst carries the datagrams of flows that are under way past gVisor. What the read loop finds in the device without
// waiting is one burst: the datagrams of each flow are collected, and go to the flow's upstream with few system calls and
// on the reader's own goroutine. The first datagrams of a flow, those that need a second look, and all that is no plain
// datagram take the long way; a flow keeps its order on both.
//
// It belongs to the goroutine of the read loop.
type udpBurst struct {
	table  *datagramTable
	boxes  []*burstBox // those in use first
	used   int
	frames int // read since the first box came in use
}

// burstBox holds the datagrams of one flow.
type burstBox struct {
	tuple     udpTuple
	flow      *datagramFlow
	memory    []byte // full of datagrams up to its length
	datagrams [][]byte
	quote     [maxQuote]byte // the beginning of the last one's packet
	quoteLen  int
}

func newUDPBurst(t *datagramTable) *udpBurst { return &udpBurst{table: t} }

// take collects the datagrams of the frame in the ring, of which first is the beginning, or reports false when it is not
// for the short way.
func (b *udpBurst) take(ring *rxRing, first []byte, size int, vnet bool, h vnetHdr) bool {
	if b == nil {
		return false
	}
	f, ok := parseUDP(first, vnet, h)
	if !ok || f.end > size {
		return false
	}
	box := b.box(&f.tuple)
	if box == nil {
		return false
	}
	n := f.end - f.start
	packet := first[header.EthernetMinimumSize:min(len(first), f.end)]
	from, ok := box.fits(&f, packet, n)
	if !ok {
		return true
	}
	if len(box.memory)+n > maxBurstBytes {
		b.flush()
		if box = b.box(&f.tuple); box == nil {
			return false
		}
	}
	payload := box.memory[len(box.memory):][:n]
	ring.copyOut(payload, f.start)
	if f.unsummed && !f.validSum(first[f.start-header.UDPMinimumSize:f.start], payload) {
		return false
	}
	b.table.count(countUDPShort)
	box.memory = box.memory[:len(box.memory)+n]
	box.cut(payload[from:], f.segment)
	box.quoteLen = copy(box.quote[:], packet)
	return true
}

// cut adds the datagrams in payload.
func (x *burstBox) cut(payload []byte, segment int) {
	for segment > 0 && len(payload) > segment {
		x.datagrams = append(x.datagrams, payload[:segment:segment])
		payload = payload[segment:]
	}
	x.datagrams = append(x.datagrams, payload[:len(payload):len(payload)])
}

// box returns where the datagrams of a tuple are collected, nil when they do not take the short way.
func (b *udpBurst) box(tuple *udpTuple) *burstBox {
	for _, x := range b.boxes[:b.used] {
		if bytes.Equal(x.tuple[:], tuple[:]) {
			return x
		}
	}
	flow := b.table.forwarding(tuple.key())
	if flow == nil {
		return nil
	}
	if b.used == maxBurstFlows {
		b.flush()
	}
	if b.used == len(b.boxes) {
		b.boxes = append(b.boxes, &burstBox{memory: make([]byte, 0, maxBurstBytes)})
	}
	x := b.boxes[b.used]
	x.tuple, x.flow = *tuple, flow
	b.used++
	return x
}

// tick is called behind every frame.
func (b *udpBurst) tick() {
	if b == nil || b.used == 0 {
		return
	}
	if b.frames++; b.frames >= maxBurstFrames {
		b.flush()
	}
}

// flush sends on what was collected. It reports whether there was anything.
func (b *udpBurst) flush() bool {
	if b == nil || b.used == 0 {
		return false
	}
	for _, x := range b.boxes[:b.used] {
		if len(x.datagrams) > 0 {
			b.table.deliverBatch(x.flow, x.datagrams, x.quote[:x.quoteLen])
		}
		x.flow = nil
		clear(x.datagrams)
		x.datagrams, x.memory = x.datagrams[:0], x.memory[:0]
	}
	b.used, b.frames = 0, 0
	return true
}

// forwarding returns the flow of key if its datagrams may take the short way.
func (t *datagramTable) forwarding(key datagramKey) *datagramFlow {
	t.mu.Lock()
	f := t.flows[key]
	t.mu.Unlock()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sink == nil || f.err != nil {
		return nil
	}
	return f
}

// deliverBatch takes datagrams of one flow, the last of whose packets began with quote.
func (t *datagramTable) deliverBatch(f *datagramFlow, datagrams [][]byte, quote []byte) {
	t.mu.Lock()
	live := t.flows[f.key] == f
	if live {
		t.recent.MoveToFront(f.elem)
		f.ordered = f.touch()
	}
	t.mu.Unlock()
	if live && f.offer(datagrams, quote) {
		return
	}
	for _, b := range datagrams { // the flow has ended meanwhile: they are those of a new one
		t.deliver(f.key, buffer.NewViewWithData(b), quote)
	}
}
