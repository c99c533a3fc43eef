package session

import "sync"

// inbox holds what has come for a flow until the flow takes it.
type inbox struct {
	// some is called, with the lock held, when there is something and nobody has been told; it must not block. Whoever is
	// told calls take until there is nothing.
	some func()

	mu      sync.Mutex
	ring    ring[[]byte]
	told    bool
	ended   error // what take returns when all was taken
	dropped uint64
}

func length(b []byte) int { return len(b) }

// push gives a datagram to the flow, for good.
func (i *inbox) push(datagram []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended != nil {
		i.dropped++
		return
	}
	i.dropped += uint64(i.ring.push(datagram, len(datagram), length, func([]byte) {}))
	i.tell()
}

// tell is called with the lock held.
func (i *inbox) tell() {
	if !i.told {
		i.told = true
		i.some()
	}
}

// take appends what has come to into: as many datagrams as it has room for, and at most so many octets beyond the first. When there is nothing whoever asks
// will be told, and err is how the flow has ended, if it has.
func (i *inbox) take(into [][]byte, octets int) (_ [][]byte, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.ring.count > 0 && len(into) < cap(into) {
		next := len(i.ring.items[i.ring.head])
		if len(into) > 0 && next > octets {
			return into, nil
		}
		octets -= next
		into = append(into, i.ring.pop(length))
	}
	if len(into) == 0 {
		i.told = false
		err = i.ended
	}
	return into, err
}

// end lets nothing more in. What is there may still be taken.
func (i *inbox) end(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended == nil {
		i.ended = err
	}
	i.tell()
}

// lost is how many datagrams found no room.
func (i *inbox) lost() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dropped
}
