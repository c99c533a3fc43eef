package edge

import (
	"io"
	"slices"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// QUIC shares a connection out by stream, so a sandbox with many flows would have many shares. Of each sandbox only a few streams
// therefore have something to send at one time: large writes wait for one of its places, in the order in which they came. A
// sandbox with one flow has at least one share of places+1, whatever the others have, and none waits for another one.
const (
	// places is how many large writes of a sandbox to one client are under way: one that is being sent, and one that is next.
	places = 2

	// smallWrite is what needs no place, in octets: a few packets.
	smallWrite = 4 << 10

	// A write that lasts stalledTimes as long as others of its sandbox, and at least stalledAfter, waits for its destination and
	// not for the connection. It gives its place up.
	stalledAfter = 100 * time.Millisecond
	stalledTimes = 4
)

// turns are the places of one sandbox towards one client.
type turns struct {
	mu    sync.Mutex
	under []*turn // under way, the oldest first, without those that stall
	queue []*turn
	took  time.Duration // by a write, on average of late
}

// turn is one large write.
type turn struct {
	begun time.Time
	ready chan struct{} // closed when it has a place
}

// take waits for a place to write n octets. It returns nil where none is needed; otherwise give must follow.
func (t *turns) take(n int) *turn {
	if n < smallWrite {
		return nil
	}
	w := &turn{ready: make(chan struct{})}
	t.mu.Lock()
	t.queue = append(t.queue, w)
	t.admit()
	again := t.patience()
	t.mu.Unlock()
	select {
	case <-w.ready:
		return w
	default:
	}
	look := time.NewTimer(again)
	defer look.Stop()
	for {
		select {
		case <-w.ready:
			return w
		case <-look.C:
		}
		t.mu.Lock()
		t.admit()
		look.Reset(t.patience())
		t.mu.Unlock()
	}
}

// patience is how long a write may take.
func (t *turns) patience() time.Duration { return max(stalledAfter, stalledTimes*t.took) }

// admit gives the places that are free to those who wait. The caller holds mu.
func (t *turns) admit() {
	now := time.Now()
	t.under = slices.DeleteFunc(t.under, func(w *turn) bool { return now.Sub(w.begun) >= t.patience() })
	for len(t.under) < places && len(t.queue) > 0 {
		w := t.queue[0]
		t.queue = slices.Delete(t.queue, 0, 1)
		w.begun = now
		t.under = append(t.under, w)
		close(w.ready)
	}
}

// give ends a write.
func (t *turns) give(w *turn) {
	if w == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.under, w); i >= 0 {
		t.under = slices.Delete(t.under, i, i+1)
		t.took += (time.Since(w.begun) - t.took) / 8
	}
	t.admit()
}

// fairStream writes in its sandbox's turn.
type fairStream struct {
	tunnel.Stream
	turns *turns
}

// Write implements net.Conn.
func (s *fairStream) Write(b []byte) (int, error) {
	w := s.turns.take(len(b))
	defer s.turns.give(w)
	return s.Stream.Write(b)
}

// WriteTo implements io.WriterTo by the session's.
func (s *fairStream) WriteTo(w io.Writer) (int64, error) {
	if from, ok := s.Stream.(io.WriterTo); ok {
		return from.WriteTo(w)
	}
	return io.Copy(w, struct{ io.Reader }{s.Stream})
}
