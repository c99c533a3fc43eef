package capture

import (
	"slices"

	"github.com/weir-dev/weir/flow/sniff"
)

// Bounds of what is kept of one direction of a TCP connection until the octets before it arrive.
const (
	// maxAhead is how far beyond the next octet a segment may lie, in octets. A claim ends within this distance.
	maxAhead = sniff.MaxStream + sniff.MaxWatch

	// maxChunks bounds the pieces that are kept.
	maxChunks = 1024

	// chunkCost is what a piece costs besides its octets.
	chunkCost = 64
)

// assembler puts the octets of one direction of a TCP connection in order. The first copy of an octet counts; later
// ones are dropped. The zero value is ready and has no place to begin yet.
type assembler struct {
	placed bool   // next is known
	start  uint32 // sequence number of the first octet
	next   uint32 // that of the next octet to come out
	held   []chunk
	cost   int

	// early is data in a SYN (RFC 7413). The server may ignore it, and then the client sends it again or something else
	// instead, so it waits until it is clear whether it counted.
	early    []byte
	earlySeq uint32

	// accepted is the acknowledgement number of the peer's SYN-ACK.
	accepted    uint32
	hasAccepted bool
}

type chunk struct {
	seq  uint32
	data []byte
}

// before reports whether sequence number a lies before b (RFC 9293 section 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }

// place says where the stream begins. Only the first call counts.
func (a *assembler) place(seq uint32) {
	if a.placed {
		return
	}
	a.placed, a.start, a.next = true, seq, seq
	for len(a.held) > 0 && before(a.held[0].seq, seq) {
		a.trimFirst()
	}
}

// placeAtLowest begins with the lowest octet that was seen, for captures that begin in the middle of the connection.
func (a *assembler) placeAtLowest() {
	if !a.placed && len(a.held) > 0 {
		a.place(a.held[0].seq)
	}
}

// syn takes a SYN with its data.
func (a *assembler) syn(isn uint32, data []byte) {
	a.place(isn + 1)
	if len(data) == 0 || a.early != nil || a.next != isn+1 {
		return
	}
	if a.hasAccepted && a.accepted == isn+1 {
		return
	}
	a.early, a.earlySeq = slices.Clone(data), isn+1
	a.cost += len(data)
}

// acked tells the acknowledgement number of the peer. A SYN-ACK that does not cover the data in the SYN says that it was
// ignored; an acknowledgement of later octets that it counted.
func (a *assembler) acked(ack uint32, synAck bool) {
	if synAck && !a.hasAccepted {
		a.accepted, a.hasAccepted = ack, true
	}
	if synAck && !a.placed {
		a.place(ack)
	}
	if a.early == nil {
		return
	}
	switch {
	case synAck && ack == a.earlySeq:
		a.forgetEarly()
	case before(a.earlySeq, ack):
		a.commitEarly()
	}
}

func (a *assembler) forgetEarly() {
	a.cost -= len(a.early)
	a.early = nil
}

// commitEarly makes the data of the SYN part of the stream.
func (a *assembler) commitEarly() {
	data := a.early
	if data == nil {
		return
	}
	a.forgetEarly()
	a.insert(a.earlySeq, data)
}

// add takes the data of a segment that is no SYN.
func (a *assembler) add(seq uint32, data []byte) {
	if len(data) == 0 {
		return
	}
	if a.early != nil {
		if seq == a.earlySeq {
			a.forgetEarly() // the client sends anew from the start
		} else if !before(seq, a.earlySeq+uint32(len(a.early))) {
			a.commitEarly() // the client goes on behind it
		}
	}
	a.insert(seq, data)
}

// insert keeps the parts of data that are new.
func (a *assembler) insert(seq uint32, data []byte) {
	if a.placed && before(seq, a.next) {
		skip := int(a.next - seq)
		if skip >= len(data) {
			return
		}
		seq, data = a.next, data[skip:]
	}
	data = data[:min(len(data), maxAhead)]
	for i := 0; len(data) > 0; {
		for i < len(a.held) && !before(seq, a.held[i].end()) {
			i++
		}
		n := len(data)
		if i < len(a.held) {
			if c := &a.held[i]; before(seq, c.seq) {
				n = min(n, int(c.seq-seq)) // up to the octets that are kept already
			} else {
				n = min(n, int(c.end()-seq)) // inside them
				seq, data = seq+uint32(n), data[n:]
				continue
			}
		}
		if !a.keep(i, seq, data[:n]) {
			return
		}
		seq, data = seq+uint32(n), data[n:]
	}
}

func (c *chunk) end() uint32 { return c.seq + uint32(len(c.data)) }

// keep stores a piece at position i, unless a bound is reached: then the stream ends in a hole there.
func (a *assembler) keep(i int, seq uint32, data []byte) bool {
	low, high := seq, seq+uint32(len(data))
	if len(a.held) > 0 {
		if first := a.held[0].seq; before(first, low) {
			low = first
		}
		if last := a.held[len(a.held)-1].end(); before(high, last) {
			high = last
		}
	}
	if a.placed {
		low = a.next
	}
	inOrder := a.placed && seq == a.next // which makes room
	if len(a.held) >= maxChunks && !inOrder || high-low > maxAhead {
		return false
	}
	a.held = slices.Insert(a.held, i, chunk{seq, slices.Clone(data)})
	a.cost += len(data) + chunkCost
	return true
}

// pop returns the next octets in order, nil if they have not come.
func (a *assembler) pop() []byte {
	if !a.placed || len(a.held) == 0 || a.held[0].seq != a.next {
		return nil
	}
	c := a.held[0]
	a.removeFirst()
	a.next = c.end()
	return c.data
}

func (a *assembler) removeFirst() {
	a.cost -= len(a.held[0].data) + chunkCost
	a.held = slices.Delete(a.held, 0, 1)
}

// trimFirst cuts the first piece at next.
func (a *assembler) trimFirst() {
	c := a.held[0]
	if !before(a.next, c.end()) {
		a.removeFirst()
		return
	}
	skip := a.next - c.seq
	a.held[0] = chunk{a.next, c.data[skip:]}
	a.cost -= int(skip)
}

// release forgets everything that is kept.
func (a *assembler) release() {
	a.held, a.early, a.cost = nil, nil, 0
}
