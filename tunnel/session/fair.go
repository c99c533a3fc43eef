package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// fairLead is how many octets a share may have sent more than another one that has something to send.
	fairLead = 64 << 10

	// fairProbe is how often a share that is ahead asks again, and maxRefusals how often it is refused in vain: it asks from
	// within quic-go's packing of a packet, which asks the other one next. One that never answers is not let by its receiver.
	fairProbe   = 200 * time.Microsecond
	maxRefusals = 3

	// fairPiece is how much a write has to send for its sandbox to be expected back soon: after twice the time that its writer
	// took to get the processor the last times, and at least minReturn, at most maxReturn.
	fairPiece = 16 << 10
	minReturn = 500 * time.Microsecond
	maxReturn = 8 * time.Millisecond

	// fairMemory is for how long writes are counted octet by octet after several shares had something to send.
	fairMemory = 100 * time.Millisecond
)

// fairness divides what a session sends by streams among the sandboxes. quic-go gives each stream its turn, which would give a
// sandbox with five hundred flows five hundred shares.
//
// It counts what the shares send. While several have something to send, one that is ahead of another by fairLead pauses
// until the other has caught up, or turns out not to be able to. A share that comes back has little credit for the time in
// which it sent nothing. Nobody is slowed down where only one share has something to send.
type fairness struct {
	mu     sync.Mutex
	shares map[string]*share // by sandbox
	turn   chan struct{}     // closed when those that pause are to look again; nil while nobody does
	wakeAt int64             // how much the others have to have sent for that
	shared time.Time         // when several shares last had something to send

	wanting int           // shares that have something to send
	counted time.Time     // until when busyFor is counted
	busyFor time.Duration // how long some share had something to send
	awaited atomic.Int64  // answers that somebody waits for
	used    atomic.Int64  // when a stream was last written to, in nanoseconds since 1970
}

// share is what one sandbox sends by streams. Its fields are guarded by the lock of fairness.
type share struct {
	fair  *fairness
	key   string
	users int // streams
	wants int // how many of them have something to send
	sent  int64

	last     time.Time     // when it last sent something
	back     time.Time     // until when it is expected back
	wakeUp   time.Duration // how long its writers take to get the processor
	refusals int           // how often others were refused for its sake since it sent something
	refused  time.Time     // when that was last
	stalled  bool          // it is not waited for
	probing  bool          // one of its writers asks again and again, the others wait for that
}

func newFairness() *fairness { return &fairness{shares: make(map[string]*share)} }

// join returns the share of a sandbox for one more user, who calls leave.
func (f *fairness) join(key string) *share {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shares[key]
	if s == nil {
		s = &share{fair: f, key: key}
		f.shares[key] = s
	}
	s.users++
	return s
}

func (s *share) leave() {
	s.fair.mu.Lock()
	defer s.fair.mu.Unlock()
	if s.users--; s.users == 0 && s.fair.shares[s.key] == s {
		delete(s.fair.shares, s.key)
		s.fair.resume()
	}
}

// begin says that a user has something to send, and reports whether that is to be counted octet by octet.
func (s *share) begin(now time.Time) (counted bool) {
	f := s.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	behind := f.behind(s, now)
	if s.wants++; s.wants == 1 {
		f.countBusy(now)
		f.wanting++
		s.catchUp(behind)
	}
	if behind != nil {
		f.shared = now
	}
	f.use(now)
	return now.Sub(f.shared) < fairMemory
}

// done says that a user has nothing to send any more, and has sent so many octets. It is called with the lock held.
func (s *share) done(octets int, now time.Time) {
	s.fair.use(now)
	if s.wants--; s.wants == 0 {
		s.fair.countBusy(now)
		s.fair.wanting--
		if octets >= fairPiece {
			s.back = now.Add(min(max(2*s.wakeUp, minReturn), maxReturn))
		} else {
			s.fair.resume()
		}
	}
}

// catchUp takes most of its credit from a share that did not send, with the lock held. What is left lets one that sends little
// have its turn at once, and one that writes piece by piece not lose its turn between the pieces.
func (s *share) catchUp(behind *share) {
	s.stalled, s.refusals = false, 0
	if behind != nil {
		s.sent = max(s.sent, behind.sent-fairLead)
	}
}

// behind is the share that has sent least among those besides s that have something to send and can, nil where there is none.
// It is called with the lock held.
func (f *fairness) behind(s *share, now time.Time) (least *share) {
	for _, o := range f.shares {
		if o != s && !o.stalled && (o.wants > 0 || now.Before(o.back)) && (least == nil || o.sent < least.sent) {
			least = o
		}
	}
	return least
}

// take asks for so many octets, and returns how many may be sent now: all or none. It is called with the lock held.
func (s *share) take(octets int, now time.Time) int {
	f := s.fair
	behind := f.behind(s, now)
	if s.stalled {
		s.catchUp(behind)
	}
	if behind != nil && s.sent-behind.sent >= fairLead && !behind.refuse(now) {
		return 0
	}
	s.sent += int64(octets)
	s.last, s.refusals = now, 0
	if f.turn != nil && s.sent >= f.wakeAt && s.sent-int64(octets) < f.wakeAt {
		f.resume()
	}
	return octets
}

// refuse notes that another share is refused for the sake of this one, and reports whether that was in vain too often.
func (s *share) refuse(now time.Time) (enough bool) {
	if s.wants == 0 || now.Sub(s.refused) < fairProbe/2 { // it is expected back, or this is the same packet
		return false
	}
	s.refused = now
	if s.refusals++; s.refusals <= maxRefusals {
		return false
	}
	s.stalled = true
	s.fair.resume()
	return true
}

// use says that something is written to a stream, of a flow or not.
func (f *fairness) use(now time.Time) { f.used.Store(now.UnixNano()) }

// wants says whether some stream has something to send, or was written to a moment ago: quic-go may hold what is left of it.
func (f *fairness) wants(now time.Time) bool {
	if now.UnixNano()-f.used.Load() < int64(paceMemory) || f.awaited.Load() > 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wanting > 0
}

// busy is for how long some stream had something to send since it was called last.
func (f *fairness) busy(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.countBusy(now)
	busy := f.busyFor
	f.busyFor = 0
	return busy
}

// countBusy is called with the lock held, before wanting changes.
func (f *fairness) countBusy(now time.Time) {
	if f.wanting > 0 {
		f.busyFor += now.Sub(f.counted)
	}
	f.counted = now
}

// resume lets those that pause look again, with the lock held.
func (f *fairness) resume() {
	if f.turn != nil {
		close(f.turn)
		f.turn = nil
	}
}

// pause waits until it may be worth asking again. One of a share's users does so soon, the others when that one was let.
func (s *share) pause() {
	f := s.fair
	f.mu.Lock()
	behind := f.behind(s, time.Now())
	if behind == nil || s.sent-behind.sent < fairLead/2 {
		f.resume()
		f.mu.Unlock()
		return
	}
	if wakeAt := s.sent - fairLead/2; f.turn == nil {
		f.turn, f.wakeAt = make(chan struct{}), wakeAt
	} else {
		f.wakeAt = min(f.wakeAt, wakeAt)
	}
	turn, wait := f.turn, fairProbe
	if s.probing {
		wait = maxReturn // the one that probes may be held up by its receiver
	} else {
		s.probing = true
		defer func() {
			f.mu.Lock()
			s.probing = false
			f.mu.Unlock()
		}()
	}
	f.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-turn:
	case <-timer.C:
	}
}

// write writes to a stream, within the share.
func (s *share) write(q *quic.Stream, b []byte) (total int, err error) {
	if !s.begin(time.Now()) {
		total, err = q.Write(b)
		s.uncounted(total)
		return total, err
	}
	w := counted{share: s, left: len(b)}
	for {
		n, err := q.WriteWithLimit(b[total:], w.take)
		total += n
		if err != quic.ErrWriteLimitReached {
			w.finish(total)
			return total, err
		}
		s.pause()
	}
}

// uncounted says that a user who had something to send has sent so many octets.
func (s *share) uncounted(octets int) {
	s.fair.mu.Lock()
	defer s.fair.mu.Unlock()
	s.sent += int64(octets)
	s.done(octets, time.Now())
}

// counted is a write whose octets are counted as they are packed.
type counted struct {
	share  *share
	left   int
	packed time.Time // when the last octet was
}

// take is called by quic-go as it packs a packet. Once nothing is left the share is not one that has something to send, though
// its writer may only hear of that when it gets the processor.
func (w *counted) take(octets int) int {
	f := w.share.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	n := w.share.take(octets, now)
	if w.left -= n; w.left == 0 && n > 0 {
		w.packed = now
		w.share.done(fairPiece, now)
	}
	return n
}

// finish says that the writer has the processor again.
func (w *counted) finish(total int) {
	s := w.share
	s.fair.mu.Lock()
	defer s.fair.mu.Unlock()
	now := time.Now()
	if w.packed.IsZero() { // it failed, or there was nothing to write
		s.done(0, now)
		return
	}
	s.wakeUp += (now.Sub(w.packed) - s.wakeUp) / 4
	if total < fairPiece && s.wants == 0 {
		s.back = time.Time{}
		s.fair.resume()
	}
}
