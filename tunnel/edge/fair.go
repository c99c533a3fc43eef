package edge

import (
	"io"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// Sandboxes that write to one client at the same time get equal shares of the connection, however many flows each has. QUIC
// itself shares out by stream. So each sandbox has a virtual time, the octets that it has written, and waits while it is ahead of
// another one that has something to write (start-time fair queueing, by writes instead of packets). Alone it never waits.
const (
	// aheadMost is how far a sandbox may be ahead, in octets.
	aheadMost = 128 << 10

	// behindMost is how much a sandbox that wrote little may catch up.
	behindMost = 128 << 10

	// turnGrace is how long after a write a sandbox counts as one that has more: as long as a flow takes to fetch it.
	turnGrace = 2 * time.Millisecond

	// stalledAfter is when a write is taken for one that waits for its destination, and nobody waits for it.
	stalledAfter = 50 * time.Millisecond
)

// fairness has the lines of all clients.
type fairness struct {
	mu    sync.Mutex
	lines map[tunnel.Identity]*line
}

// turn returns a new turn in the line to a client.
func (f *fairness) turn(to tunnel.Identity) *turn {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lines[to]
	if l == nil {
		if f.lines == nil {
			f.lines = map[tunnel.Identity]*line{}
		}
		l = &line{changed: make(chan struct{})}
		f.lines[to] = l
	}
	return &turn{line: l}
}

// line is where the sandboxes of one client stand.
type line struct {
	mu      sync.Mutex
	now     int64   // virtual time: the greatest at which a write was let through
	active  []*turn // those that write, and those that did just now
	changed chan struct{}
	waiting int
}

// turn is one sandbox in a line.
type turn struct {
	line    *line
	at      int64 // virtual time: octets
	writing int
	moved   time.Time // when it last began or ended a write
	listed  bool      // in active
}

// take waits for the turn to write n octets; give must follow.
func (t *turn) take(n int) {
	l := t.line
	l.mu.Lock()
	defer l.mu.Unlock()
	t.at = max(t.at, l.now-behindMost)
	if !t.listed {
		t.listed = true
		l.active = append(l.active, t)
	}
	if t.writing == 0 {
		t.moved = time.Now()
	}
	t.writing++
	for len(l.active) > 1 && l.ahead(t) {
		l.wait()
	}
	t.at += int64(n)
	l.now = max(l.now, t.at)
}

// ahead reports whether t has to wait for another one, and forgets those that write no more.
func (l *line) ahead(t *turn) bool {
	now := time.Now()
	ahead := false
	kept := l.active[:0]
	for _, o := range l.active {
		since := now.Sub(o.moved)
		if o != t && (o.writing == 0 && since > turnGrace) {
			o.listed = false
			continue
		}
		kept = append(kept, o)
		if o != t && since <= stalledAfter && t.at > o.at+aheadMost {
			ahead = true
		}
	}
	clear(l.active[len(kept):])
	l.active = kept
	return ahead
}

// wait waits until something has changed, with mu let go of, and not for long: who stalls says nothing.
func (l *line) wait() {
	changed := l.changed
	l.waiting++
	l.mu.Unlock()
	soon := time.NewTimer(turnGrace)
	select {
	case <-changed:
	case <-soon.C:
	}
	soon.Stop()
	l.mu.Lock()
	l.waiting--
}

// give ends a write.
func (t *turn) give() {
	l := t.line
	l.mu.Lock()
	defer l.mu.Unlock()
	t.writing--
	t.moved = time.Now()
	if l.waiting > 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// fairStream writes in its sandbox's turn.
type fairStream struct {
	tunnel.Stream
	turn *turn
}

// Write implements net.Conn.
func (s *fairStream) Write(b []byte) (int, error) {
	s.turn.take(len(b))
	defer s.turn.give()
	return s.Stream.Write(b)
}

// WriteTo implements io.WriterTo by the session's.
func (s *fairStream) WriteTo(w io.Writer) (int64, error) {
	if from, ok := s.Stream.(io.WriterTo); ok {
		return from.WriteTo(w)
	}
	return io.Copy(w, struct{ io.Reader }{s.Stream})
}
