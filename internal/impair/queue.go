package impair

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"time"
)

// maxQueued bounds the packets on their way in one direction: at 1500 octets, 300 ms of 3 Gbit/s.
const maxQueued = 1 << 16

// queue holds the packets of one direction until their time.
type queue struct {
	write func([]byte)
	wake  chan struct{}

	mu      sync.Mutex
	waiting delayed
	serial  uint64
	free    time.Time // when what was accepted so far has been sent at the rate
	last    time.Time // when the last packet in order leaves
	sending bool      // packets are being written that are not waiting any more
	spare   [][]byte
}

// due is a packet with its time.
type due struct {
	at     time.Time
	serial uint64 // of packets with the same time the earlier one leaves first
	packet []byte
}

// delayed is a heap, the next packet first.
type delayed []due

func (d delayed) Len() int { return len(d) }
func (d delayed) Less(i, j int) bool {
	if c := d[i].at.Compare(d[j].at); c != 0 {
		return c < 0
	}
	return d[i].serial < d[j].serial
}
func (d delayed) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *delayed) Push(x any)   { *d = append(*d, x.(due)) }
func (d *delayed) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = due{}
	*d = old[:len(old)-1]
	return last
}

func newQueue(write func([]byte)) *queue {
	return &queue{write: write, wake: make(chan struct{}, 1)}
}

// empty reports whether a packet that is sent now overtakes none.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) == 0 && !q.sending
}

// put gives a copy of the packet its time; false means that there is no room for it.
func (q *queue) put(s *Settings, raw []byte, late bool, jitter float64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if s.Rate > 0 {
		q.free = latest(q.free, now)
		waiting := int64(q.free.Sub(now).Seconds() * float64(s.Rate) / 8)
		if waiting+int64(len(raw)) > int64(cmp.Or(s.Queue, defaultQueue)) {
			return false
		}
		q.free = q.free.Add(time.Duration(float64(len(raw)) * 8 / float64(s.Rate) * float64(time.Second)))
	} else {
		q.free = now
	}
	if len(q.waiting) >= maxQueued {
		return false
	}
	at := q.free.Add(s.Delay + time.Duration(jitter*float64(s.Jitter)))
	if late {
		at = latest(at, q.last).Add(cmp.Or(s.Lag, defaultLag))
	} else {
		at = latest(at, q.last)
		q.last = at
	}
	q.serial++
	heap.Push(&q.waiting, due{at, q.serial, append(q.buffer(), raw...)})
	if q.waiting[0].serial == q.serial {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// buffer is one that a packet has left, or none.
func (q *queue) buffer() []byte {
	if n := len(q.spare); n > 0 {
		b := q.spare[n-1]
		q.spare = q.spare[:n-1]
		return b[:0]
	}
	return nil
}

// maxSpare is how many buffers are kept.
const maxSpare = 1024

// run writes packets when their time has come, until done.
func (q *queue) run(done <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var ready []due
	for {
		var wait time.Duration
		ready, wait = q.take(ready)
		for _, d := range ready {
			q.write(d.packet)
		}
		if len(ready) > 0 {
			q.putBack(ready)
			continue
		}
		timer.Reset(wait)
		select {
		case <-done:
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// take moves the packets whose time has come to ready, and says how long it is until the next.
func (q *queue) take(ready []due) ([]due, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ready = slices.Delete(ready, 0, len(ready))
	now := time.Now()
	for len(q.waiting) > 0 && !q.waiting[0].at.After(now) {
		ready = append(ready, heap.Pop(&q.waiting).(due))
	}
	q.sending = len(ready) > 0
	if len(q.waiting) == 0 {
		return ready, time.Hour
	}
	return ready, q.waiting[0].at.Sub(now)
}

func (q *queue) putBack(ready []due) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = false
	for _, d := range ready {
		if len(q.spare) < maxSpare {
			q.spare = append(q.spare, d.packet)
		}
	}
}
