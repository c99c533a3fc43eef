package session

import (
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// longOctets bounds the datagrams of a flow that wait for its stream. Those that find no room are lost.
const longOctets = 1 << 20

// udpFlow is either end of a UDP flow: what goes out by the schedule or the stream, and what has come in.
type udpFlow struct {
	x  *exchange
	q  *quic.Stream
	id uint64
	in inbox

	// Guarded by the schedule's lock.
	account *account
	out     ring[packet]
	credit  int
	queued  bool

	longMu  sync.Mutex
	long    [][]byte // capsules that wait, in order
	waits   int      // their octets
	writing bool     // a goroutine writes them
	finish  bool     // the stream ends after them
	closed  bool     // nothing goes on the stream any more
}

// newUDPFlow returns a flow that is not known to the exchange yet. some is the inbox's.
func newUDPFlow(x *exchange, q *quic.Stream, sandbox string, some func()) *udpFlow {
	f := &udpFlow{x: x, q: q, id: uint64(q.StreamID())}
	f.in.some = some
	x.schedule.join(f, sandbox)
	return f
}

// send lets datagrams wait for their turn. It copies them.
func (f *udpFlow) send(datagrams [][]byte) {
	var few [32]packet
	packets, now := few[:0], time.Now()
	room := f.x.max() - wire.DatagramHeaderLen(f.id)
	for _, d := range datagrams {
		if len(d) > room {
			f.sendLong(d)
			continue
		}
		p := packet{buffer: packetBuffers.Get().(*[packetBuffer]byte), flow: f, since: now}
		b := wire.AppendDatagramHeader(p.buffer[:0], f.id)
		p.size = len(append(b, d...))
		if packets = append(packets, p); len(packets) == cap(packets) {
			f.x.schedule.push(f, packets)
			packets = packets[:0]
		}
	}
	if len(packets) > 0 {
		f.x.schedule.push(f, packets)
	}
}

// max is the length of a datagram that fits into a packet.
func (f *udpFlow) max() int { return max(0, f.x.max()-wire.DatagramHeaderLen(f.id)) }

// sendLong sends a datagram as a capsule on the flow's stream. It copies it.
func (f *udpFlow) sendLong(d []byte) {
	if len(d) > wire.MaxPayload {
		f.x.dropped.Add(1)
		return
	}
	f.longMu.Lock()
	defer f.longMu.Unlock()
	if f.closed || f.finish || f.waits+len(d) > longOctets {
		f.x.dropped.Add(1)
		return
	}
	capsule := append(wire.AppendCapsuleHeader(make([]byte, 0, len(d)+16), len(d)), d...)
	f.long = append(f.long, capsule)
	f.waits += len(capsule)
	f.x.long.Add(1)
	f.writeLongs()
}

// writeLongs sees to it that somebody writes what waits. It is called with the lock held.
func (f *udpFlow) writeLongs() {
	if f.writing || f.closed {
		return
	}
	f.writing = true
	go func() {
		for {
			f.longMu.Lock()
			if f.closed || len(f.long) == 0 {
				if f.finish && !f.closed {
					f.closed = true
					f.q.Close()
				}
				f.writing = false
				f.longMu.Unlock()
				return
			}
			next := f.long[0]
			f.long = f.long[1:]
			f.longMu.Unlock()
			_, err := f.q.Write(next)
			f.longMu.Lock()
			f.waits -= len(next)
			f.closed = f.closed || err != nil
			f.longMu.Unlock()
		}
	}()
}

// endStream ends our direction after what waits for the stream.
func (f *udpFlow) endStream() {
	f.longMu.Lock()
	defer f.longMu.Unlock()
	f.finish = true
	f.writeLongs()
}

// reset ends both directions of the stream at once.
func (f *udpFlow) reset(code tunnel.Code) {
	f.longMu.Lock()
	f.closed, f.long = true, nil
	f.longMu.Unlock()
	refuse(f.q, code)
}

// receiveLong gives the inbox what comes on the stream until its end, and returns how it has ended: io.EOF, or an error of
// the stream. While nothing comes it holds no buffer.
func (f *udpFlow) receiveLong() error {
	var one [1]byte
	for {
		f.q.Peek(one[:])
		f.q.SetReadDeadline(time.Now().Add(capsuleTimeout)) // whoever has begun must not keep the buffer by not going on
		large := largeBuffers.Get().(*[largeBuffer]byte)
		n, err := wire.ReadCapsule(f.q, large[:wire.MaxPayload])
		if err == nil {
			f.in.push(append(make([]byte, 0, n), large[:n]...))
		}
		largeBuffers.Put(large)
		if err != nil {
			return err
		}
		f.q.SetReadDeadline(time.Time{})
	}
}

// capsuleTimeout is how long a datagram on a stream may take from its first octet to its last.
const capsuleTimeout = 10 * time.Second
