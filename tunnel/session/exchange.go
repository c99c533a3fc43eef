package session

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// exchange carries the datagrams of a session. One goroutine sends, because quic-go's SendDatagram waits when 32 are under
// way; one receives, and does nothing but find the flow, because quic-go drops in silence what comes while 128 wait.
type exchange struct {
	link     *link
	schedule *schedule

	mu    sync.RWMutex
	flows map[uint64]*udpFlow // by the id of their streams
	over  error               // how the session has ended

	limit   atomic.Int64 // the largest DATAGRAM payload now, in octets; 0 when the other side takes none
	probed  atomic.Int64 // when that was asked for, in nanoseconds since began
	began   time.Time
	tooLong []byte // longer than any

	long, unknown, malformed, dropped atomic.Uint64
}

func newExchange(l *link) *exchange {
	x := &exchange{
		link: l, schedule: newSchedule(), flows: make(map[uint64]*udpFlow), began: time.Now(), tooLong: make([]byte, packetBuffer),
	}
	x.measure()
	return x
}

// measureEvery is how often quic-go is asked how much fits into a packet: an edge begins with little (packetEdge), and what
// does not fit is to go as datagrams as soon as more is known to pass.
const measureEvery = 50 * time.Millisecond

// max is how long a DATAGRAM frame's payload may be now, in octets.
func (x *exchange) max() int {
	now := int64(time.Since(x.began))
	if last := x.probed.Load(); now-last > int64(measureEvery) && x.probed.CompareAndSwap(last, now) {
		x.measure()
	}
	return int(x.limit.Load())
}

// measure finds out by asking for too much.
func (x *exchange) measure() {
	var tooLarge *quic.DatagramTooLargeError
	if errors.As(x.link.conn.SendDatagram(x.tooLong), &tooLarge) {
		x.limit.Store(tooLarge.MaxDatagramPayloadSize)
	}
}

// send sends what waits until the session ends.
func (x *exchange) send() {
	var batch [16]packet
	pace := newPace(x.link.conn, x.link.fair)
	for {
		n := x.schedule.pop(batch[:], time.Now())
		if n == 0 {
			select {
			case <-x.schedule.wake:
				continue
			case <-x.link.conn.Context().Done():
				return
			}
		}
		octets, start := 0, time.Now()
		for _, p := range batch[:n] {
			octets += p.size
			x.sendPacket(p)
			p.free()
		}
		clear(batch[:n])
		pace.sent(n, octets, time.Since(start))
	}
}

func (x *exchange) sendPacket(p packet) {
	b := p.buffer[:p.size]
	err := x.link.conn.SendDatagram(b)
	var tooLarge *quic.DatagramTooLargeError
	switch {
	case errors.As(err, &tooLarge): // the path takes less than before
		x.limit.Store(tooLarge.MaxDatagramPayloadSize)
		p.flow.sendLong(b[wire.DatagramHeaderLen(p.flow.id):])
	case err != nil:
		x.dropped.Add(1)
	}
}

// receive gives what comes to its flow until the session ends.
func (x *exchange) receive() {
	for {
		b, err := x.link.conn.ReceiveDatagram(x.link.conn.Context())
		if err != nil {
			return
		}
		id, context, payload, ok := wire.ParseDatagram(b)
		if !ok {
			x.malformed.Add(1)
			continue
		}
		x.mu.RLock()
		f := x.flows[id]
		x.mu.RUnlock()
		if f == nil || context != wire.ContextPayload {
			x.unknown.Add(1)
			continue
		}
		f.in.push(payload)
	}
}

// add makes a flow known, so that datagrams find it.
func (x *exchange) add(f *udpFlow) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over != nil {
		return x.over
	}
	x.flows[f.id] = f
	return nil
}

// remove forgets a flow.
func (x *exchange) remove(f *udpFlow) {
	x.mu.Lock()
	delete(x.flows, f.id)
	x.mu.Unlock()
	x.schedule.leave(f)
	x.dropped.Add(f.in.lost())
}

// stats adds what became of datagrams. Those that came while 128 were waiting inside of quic-go are not known.
func (x *exchange) stats(s *tunnel.Stats) {
	x.schedule.mu.Lock()
	dropped := x.schedule.dropped
	x.schedule.mu.Unlock()
	x.mu.RLock()
	for _, f := range x.flows {
		dropped += f.in.lost()
	}
	x.mu.RUnlock()
	s.DatagramsDropped = dropped + x.dropped.Load() + x.unknown.Load() + x.malformed.Load()
	s.DatagramsLong = x.long.Load()
	s.MaxDatagram = max(0, x.max()-wire.MaxDatagramHeader)
}
