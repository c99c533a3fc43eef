package capture

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what waits for its missing fragments.
const (
	// MaxFragments is the number of datagrams that are being put together at one time.
	MaxFragments = 1024

	// maxFragmentOctets bounds all fragments that are kept, in octets.
	maxFragmentOctets = 8 << 20

	// maxPieces bounds the fragments of one datagram: 64 KiB in pieces of 8 octets never occur, in pieces of 512 they might.
	maxPieces = 128

	// maxDatagram is the longest datagram, in octets.
	maxDatagram = 64 << 10

	// fragmentTimeout is how long, in the time of the capture, a datagram waits (RFC 8200 section 4.5 says 60 s).
	fragmentTimeout = time.Minute
)

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8 // IPv4 only: RFC 791 section 3.2
}

// fragments puts fragmented datagrams together, the way Linux does: an exact copy of a fragment is ignored, any other
// overlap drops the whole datagram (RFC 5722, and RFC 8900 recommends no less for IPv4).
type fragments struct {
	open   map[fragmentKey]*list.Element
	oldest list.List // of *puzzle, in the order of their first fragment
	octets int
	stats  *Stats
}

type puzzle struct {
	key    fragmentKey
	at     time.Time
	proto  uint8 // of the first fragment, which alone says what follows in IPv6
	pieces []piece
	total  int  // known when the last fragment was seen, else -1
	bad    bool // overlapped: what still comes is dropped
}

type piece struct {
	offset int
	data   []byte
}

// add takes one fragment, and returns the datagram when this was the last one missing.
func (f *fragments) add(key fragmentKey, p packet, offset int, more bool) (whole []byte, proto uint8, ok bool) {
	z := f.puzzle(key, p.at)
	f.stats.Fragments++
	end := offset + len(p.body)
	if z.bad || end > maxDatagram || more && len(p.body)%8 != 0 || len(p.body) == 0 {
		return nil, 0, false
	}
	i, duplicate, fits := z.place(offset, end, more)
	if duplicate {
		return nil, 0, false
	}
	if !fits || len(z.pieces) == maxPieces {
		z.bad = true
		f.free(z)
		return nil, 0, false
	}
	z.pieces = slices.Insert(z.pieces, i, piece{offset, slices.Clone(p.body)})
	f.octets += len(p.body)
	if offset == 0 {
		z.proto = p.proto
	}
	if !more {
		z.total = end
	}
	if whole = z.join(); whole == nil {
		return nil, 0, false
	}
	f.stats.Fragments -= uint64(len(z.pieces))
	f.drop(f.open[key])
	return whole, z.proto, true
}

// puzzle finds or makes the datagram of a key, and makes room.
func (f *fragments) puzzle(key fragmentKey, now time.Time) *puzzle {
	if f.open == nil {
		f.open = make(map[fragmentKey]*list.Element)
	}
	for e := f.oldest.Front(); e != nil; e = f.oldest.Front() {
		old := e.Value.(*puzzle)
		if f.oldest.Len() < MaxFragments && f.octets < maxFragmentOctets && now.Sub(old.at) < fragmentTimeout {
			break
		}
		f.drop(e)
	}
	if e := f.open[key]; e != nil {
		return e.Value.(*puzzle)
	}
	z := &puzzle{key: key, at: now, total: -1}
	f.open[key] = f.oldest.PushBack(z)
	return z
}

func (f *fragments) drop(e *list.Element) {
	z := f.oldest.Remove(e).(*puzzle)
	delete(f.open, z.key)
	f.free(z)
}

func (f *fragments) free(z *puzzle) {
	for _, p := range z.pieces {
		f.octets -= len(p.data)
	}
	z.pieces = nil
}

// place says where a fragment belongs among those that are there, and whether it is an exact copy or overlaps one.
func (z *puzzle) place(offset, end int, more bool) (i int, duplicate, fits bool) {
	for i < len(z.pieces) && z.pieces[i].offset < offset {
		i++
	}
	if i < len(z.pieces) && z.pieces[i].offset == offset && offset+len(z.pieces[i].data) == end {
		return i, true, false
	}
	switch {
	case i > 0 && z.pieces[i-1].offset+len(z.pieces[i-1].data) > offset,
		i < len(z.pieces) && z.pieces[i].offset < end,
		z.total >= 0 && (end > z.total || !more),
		!more && len(z.pieces) > 0 && i < len(z.pieces):
		return i, false, false
	}
	return i, false, true
}

// join returns the datagram if no piece is missing, else nil.
func (z *puzzle) join() []byte {
	if z.total < 0 {
		return nil
	}
	end := 0
	for _, p := range z.pieces {
		if p.offset != end {
			return nil
		}
		end += len(p.data)
	}
	if end != z.total {
		return nil
	}
	whole := make([]byte, 0, end)
	for _, p := range z.pieces {
		whole = append(whole, p.data...)
	}
	return whole
}
