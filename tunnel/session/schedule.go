package session

import (
	"sync"
	"time"
)

const (
	// packetBuffer is room for any datagram that fits into a packet: quic-go's are at most 1452 octets.
	packetBuffer = 1536

	// quantum is how many octets a sandbox, or a flow within its sandbox, sends before the next one has its turn (deficit round
	// robin).
	quantum = 16 << 10

	// waitingOctets bounds what waits in a session, for all of its flows.
	waitingOctets = 16 << 20

	// maxAge is how long a datagram may wait: what is older is of no use to anybody.
	maxAge = 250 * time.Millisecond
)

// packet is a datagram with its header that waits to be sent.
type packet struct {
	buffer *[packetBuffer]byte
	size   int
	flow   *udpFlow
	since  time.Time
}

var packetBuffers = sync.Pool{New: func() any { return new([packetBuffer]byte) }}

func (p packet) free() { packetBuffers.Put(p.buffer) }

func packetSize(p packet) int { return p.size }

// account is what a sandbox has waiting.
type account struct {
	key    string
	users  int        // flows that are open
	active []*udpFlow // those with something waiting, the next one first
	credit int
	queued bool
}

// schedule chooses which datagram is sent next: each sandbox has its turn, and within it each flow.
type schedule struct {
	wake chan struct{} // has one while there may be something to send

	mu       sync.Mutex
	accounts map[string]*account
	turn     []*account // those with something waiting, the next one first
	octets   int        // of all that waits
	dropped  uint64
}

func newSchedule() *schedule {
	return &schedule{wake: make(chan struct{}, 1), accounts: make(map[string]*account)}
}

// join makes a flow one of its sandbox's.
func (s *schedule) join(f *udpFlow, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[key]
	if a == nil {
		a = &account{key: key}
		s.accounts[key] = a
	}
	a.users++
	f.account = a
}

// leave forgets a flow and drops what it has waiting.
func (s *schedule) leave(f *udpFlow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f.out.count > 0 {
		s.drop(f.out.pop(packetSize))
	}
	if f.account.users--; f.account.users == 0 {
		delete(s.accounts, f.account.key)
	}
}

// drop is called with the lock held, for a packet that is in no ring any more.
func (s *schedule) drop(p packet) {
	s.octets -= p.size
	s.dropped++
	p.free()
}

// push lets the packets of one flow wait.
func (s *schedule) push(f *udpFlow, packets []packet) {
	s.mu.Lock()
	for _, p := range packets {
		s.octets += p.size
		f.out.push(p, p.size, packetSize, s.drop)
		if s.octets > waitingOctets {
			s.drop(f.out.pop(packetSize))
		}
	}
	if f.out.count > 0 && !f.queued {
		f.queued = true
		f.account.active = append(f.account.active, f)
		f.credit = quantum
		if !f.account.queued {
			f.account.queued = true
			f.account.credit = quantum
			s.turn = append(s.turn, f.account)
		}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pop fills into with those that are next, and returns how many.
func (s *schedule) pop(into []packet, now time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(into) && len(s.turn) > 0 {
		a := s.turn[0]
		if a.credit <= 0 || len(a.active) == 0 {
			s.next(a)
			continue
		}
		f := a.active[0]
		if f.credit <= 0 || f.out.count == 0 {
			a.next(f)
			continue
		}
		p := f.out.pop(packetSize)
		if now.Sub(p.since) > maxAge {
			s.drop(p)
			continue
		}
		s.octets -= p.size
		a.credit -= p.size
		f.credit -= p.size
		into[n] = p
		n++
	}
	return n
}

// next gives the turn of a sandbox to the one after it.
func (s *schedule) next(a *account) {
	s.turn = append(s.turn[:0], s.turn[1:]...)
	if len(a.active) == 0 {
		a.queued = false
		return
	}
	a.credit = min(a.credit+quantum, quantum)
	s.turn = append(s.turn, a)
}

// next gives the turn of a flow to the one after it.
func (a *account) next(f *udpFlow) {
	a.active = append(a.active[:0], a.active[1:]...)
	if f.out.count == 0 {
		f.queued = false
		return
	}
	f.credit += quantum
	a.active = append(a.active, f)
}

// waiting is how many datagrams of a flow are still to be sent.
func (s *schedule) waiting(f *udpFlow) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.out.count
}
