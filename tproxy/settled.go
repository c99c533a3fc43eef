//go:build linux

package tproxy

// maxSettled is how many connections are remembered whose SYN was let through. A copy of one is late by the client's
// retransmission timer (1 s) at most, so few are needed.
const maxSettled = 1024

// settled are the SYNs that were let through last, by their connection. A copy that was in the queue by then, or that the
// client sends because the listener had no room, is no new connection: it goes the way of the first. The zero value is ready.
type settled struct {
	seq  map[tcpKey]uint32
	keys []tcpKey // in the order of their coming; next is the oldest
	next int
}

// add remembers one, in the place of the oldest.
func (s *settled) add(syn heldSYN) {
	if s.seq == nil {
		s.seq = make(map[tcpKey]uint32)
	}
	key := tcpKey{syn.src, syn.dst}
	if _, ok := s.seq[key]; !ok {
		if len(s.keys) < maxSettled {
			s.keys = append(s.keys, key)
		} else {
			delete(s.seq, s.keys[s.next])
			s.keys[s.next] = key
			s.next = (s.next + 1) % maxSettled
		}
	}
	s.seq[key] = syn.seq
}

// has reports whether this is a copy of one of them: its sequence number is the same.
func (s *settled) has(syn heldSYN) bool {
	seq, ok := s.seq[tcpKey{syn.src, syn.dst}]
	return ok && seq == syn.seq
}
