package websocket

import "sync"

// queue is the packets that wait for the socket, already in the form of messages. It never blocks: what there is no room for
// is dropped.
type queue struct {
	mu      sync.Mutex
	waiting []byte
	spare   []byte
	count   int // packets in waiting
	flying  int // packets taken and not yet done
	ended   bool

	// wake has an element when there may be something to take.
	wake chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push appends a copy of packet and reports whether there was room.
func (q *queue) push(packet []byte) bool {
	if len(packet) == 0 || len(packet) > MaxPacket {
		return false
	}
	q.mu.Lock()
	if q.ended || q.count+q.flying >= QueueLen {
		q.mu.Unlock()
		return false
	}
	q.waiting = appendPacket(q.waiting, packet)
	q.count++
	first := q.count == 1
	q.mu.Unlock()
	if first {
		q.poke()
	}
	return true
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits, valid until the next take, and whether there may be more later. One goroutine takes.
func (q *queue) take() (batch []byte, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch = q.waiting
	if cap(q.spare) > keptBuffer {
		q.spare = nil
	}
	q.waiting, q.spare = q.spare[:0], batch
	q.flying += q.count
	q.count = 0
	return batch, !q.ended
}

// done says that packets which were taken have been written.
func (q *queue) done(packets int) {
	q.mu.Lock()
	q.flying -= packets
	q.mu.Unlock()
}

// end lets nothing more in. What waits can still be taken.
func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.poke()
}
