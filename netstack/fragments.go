package netstack

import (
	"cmp"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Bounds of reassembly. gVisor bounds the octets (4 MiB for each IP version), not the fragments: 65535 octets in pieces of 8
// are 8192 packets, and it looks at each of them for each new one. The sandbox's own kernel cuts at the MTU, so the largest
// datagram there is has 54 fragments at the least MTU, and few of them are on the way at one time.
const (
	// maxFragments is how many fragments of one datagram pass, maxIncomplete how many datagrams may be incomplete.
	maxFragments  = 64
	maxIncomplete = 64

	// fragmentQuiet is when an incomplete datagram makes room for another, should there be none: a kernel sends the fragments
	// one behind the other, so a link that lost one in a burst brings no more of the others either.
	fragmentQuiet = 100 * time.Millisecond

	// fragmentTimeout4 and fragmentTimeout6 are when gVisor gives an incomplete datagram up (RFC 791 section 3.2, RFC 8200
	// section 4.5).
	fragmentTimeout4 = 30 * time.Second
	fragmentTimeout6 = 60 * time.Second
)

const (
	dropFragments  = "drop-fragments"      // more than maxFragments of one datagram
	dropIncomplete = "drop-fragment-table" // more than maxIncomplete datagrams at one time
)

// fragments counts the fragments that were handed to the stack and not yet made whole. The read loop owns it. A datagram
// whose fragments do not fit together is forgotten by the stack at once and here only when its time is up. One that made
// room here stays in the stack, and what comes of it later is counted anew: then only the stack's bound on octets, which
// counts what each fragment costs beside its own, holds the number of its fragments, and [fragmentQuiet] how fast it grows.
type fragments struct {
	now   func() time.Time
	parts map[fragmentKey]*incomplete
}

// fragmentKey names a datagram in pieces. Its source is the sandbox, or it would not have come so far.
type fragmentKey struct {
	dst   tcpip.Address
	id    uint32
	proto uint8 // IPv4 only
}

type incomplete struct {
	seen  []piece
	whole int       // octets of the whole, 0 before the last fragment
	last  time.Time // when the latest fragment came
	until time.Time
}

// piece is what one fragment covers, in octets of the datagram.
type piece struct{ from, to int }

// complete says that the pieces are the datagram: one after the other, nothing twice.
func (p *incomplete) complete() bool {
	if p.whole == 0 {
		return false
	}
	slices.SortFunc(p.seen, func(a, b piece) int { return cmp.Compare(a.from, b.from) })
	at := 0
	for _, s := range p.seen {
		if s.from != at {
			return false
		}
		at = s.to
	}
	return at == p.whole
}

func newFragments() *fragments {
	return &fragments{now: time.Now, parts: map[fragmentKey]*incomplete{}}
}

// fragment is what the header of one says.
type fragment struct {
	key          fragmentKey
	offset, size int
	more         bool
	timeout      time.Duration
}

// check looks at a frame that passed the filter and returns why it is dropped after all, "" if it is not.
func (t *fragments) check(frame []byte) string {
	f, ok := parseFragment(frame)
	if !ok {
		return ""
	}
	now := t.now()
	p := t.parts[f.key]
	if p != nil && !now.Before(p.until) {
		delete(t.parts, f.key)
		p = nil
	}
	if p == nil {
		if len(t.parts) >= maxIncomplete && !t.makeRoom(now) {
			return dropIncomplete
		}
		p = &incomplete{until: now.Add(f.timeout)}
		t.parts[f.key] = p
	}
	if len(p.seen) >= maxFragments {
		return dropFragments
	}
	p.seen, p.last = append(p.seen, piece{f.offset, f.offset + f.size}), now
	if !f.more {
		p.whole = f.offset + f.size
	}
	if p.complete() {
		delete(t.parts, f.key)
	}
	return ""
}

// makeRoom forgets the datagrams that get no fragments any more, and reports whether there were any.
func (t *fragments) makeRoom(now time.Time) bool {
	before := len(t.parts)
	for k, p := range t.parts {
		if now.Sub(p.last) >= fragmentQuiet {
			delete(t.parts, k)
		}
	}
	return len(t.parts) < before
}

// parseFragment reads a frame's fragment header; ok is false for a datagram in one piece. The filter has checked the lengths.
func parseFragment(frame []byte) (f fragment, ok bool) {
	b := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(b)
		if !ip.More() && ip.FragmentOffset() == 0 {
			return f, false
		}
		return fragment{
			key:    fragmentKey{dst: ip.DestinationAddress(), id: uint32(ip.ID()), proto: ip.Protocol()},
			offset: int(ip.FragmentOffset()), size: int(ip.TotalLength()) - int(ip.HeaderLength()), more: ip.More(), timeout: fragmentTimeout4,
		}, true
	case header.IPv6ProtocolNumber:
		return parseFragment6(header.IPv6(b))
	}
	return f, false
}

func parseFragment6(ip header.IPv6) (f fragment, ok bool) {
	upper, why := walkHeaders6(ip.NextHeader(), ip[header.IPv6MinimumSize:])
	h := upper.fragment
	if why != "" || h == nil || !h.More() && h.FragmentOffset() == 0 {
		return f, false // whole, or an atomic fragment (RFC 6946)
	}
	return fragment{
		key:    fragmentKey{dst: ip.DestinationAddress(), id: h.ID()},
		offset: int(h.FragmentOffset()) * header.IPv6FragmentExtHdrFragmentOffsetBytesPerUnit, size: int(ip.PayloadLength()) - upper.at,
		more: h.More(), timeout: fragmentTimeout6,
	}, true
}
