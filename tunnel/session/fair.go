package session

import (
	"math"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// fairLead is how many octets a share may have sent more than another one that has something to send.
	fairLead = 64 << 10

	// How long it waits for the other: one that sends nothing in that time does not want to, or its receiver does not let it.
	// The time is halved for one that did not send when it was waited for, and doubled for one that did.
	minPatience   = 100 * time.Microsecond
	startPatience = 2 * time.Millisecond
	maxPatience   = 8 * time.Millisecond

	// fairPiece is how much a write has to send for its sandbox to be expected back: it counts as having something to send for
	// as long after it.
	fairPiece = 16 << 10

	// fairMemory is for how long writes are limited after several shares had something to send.
	fairMemory = 100 * time.Millisecond
)

// fairness divides what a session can send among the sandboxes, and for each of them between streams and datagrams. quic-go
// gives each stream its turn, which would give a sandbox with five hundred flows five hundred shares, and it sends
// datagrams before all streams.
//
// It counts what the shares send. While several have something to send, one that is ahead of another by fairLead pauses
// until the other has caught up, or turns out not to be able to. A share that comes back has little credit for the time in
// which it sent nothing. Nobody is slowed down where only one share has something to send.
type fairness struct {
	mu     sync.Mutex
	shares map[shareKey]*share
	turn   chan struct{} // closed when those that pause are to look again; nil while nobody does
	wakeAt int64         // how much all others have to have sent for that
	shared time.Time     // when several shares last had something to send
}

type shareKey struct {
	sandbox   string
	datagrams bool
}

// share is what one sandbox sends by streams, or by datagrams. Its fields are guarded by the lock of fairness.
type share struct {
	fair    *fairness
	key     shareKey
	users   int // streams, or flows of datagrams
	wants   int // how many of them have something to send
	sent    int64
	last    time.Time // when it last sent something
	back    time.Time // until when it is expected back
	stalled bool      // it has something, but has sent nothing while others waited for it

	patience time.Duration // how long others wait for it
	streak   int           // octets since it stalled, or since the patience was raised
}

func newFairness() *fairness { return &fairness{shares: make(map[shareKey]*share)} }

// join returns the share of a sandbox for one more user, who calls leave.
func (f *fairness) join(sandbox string, datagrams bool) *share {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := shareKey{sandbox, datagrams}
	s := f.shares[key]
	if s == nil {
		s = &share{fair: f, key: key, patience: startPatience}
		f.shares[key] = s
	}
	s.users++
	return s
}

func (s *share) leave() {
	s.fair.mu.Lock()
	defer s.fair.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(s.fair.shares, s.key)
	}
}

// begin says that a user has something to send, and reports whether others have, too.
func (s *share) begin(now time.Time) (contended bool) {
	f := s.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	least := f.least(s, now)
	if s.wants++; s.wants == 1 {
		s.catchUp(least)
	}
	if least != nobody {
		f.shared = now
	}
	return now.Sub(f.shared) < fairMemory
}

// end says that it has not any more. It has sent so many octets, of which so many nobody has counted.
func (s *share) end(octets, uncounted int, now time.Time) {
	f := s.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	s.sent += int64(uncounted)
	if s.wants--; s.wants == 0 {
		if octets >= fairPiece {
			s.back = now.Add(s.patience)
		}
		f.resume()
	}
}

// catchUp takes most of its credit from a share that did not send, with the lock held. What is left lets one that sends little
// have its turn at once, and one that writes piece by piece not lose its turn between the pieces.
func (s *share) catchUp(least int64) {
	s.stalled = false
	if least != nobody {
		s.sent = max(s.sent, least-fairLead)
	}
}

// nobody is what least returns where no other share has something to send.
const nobody = math.MaxInt64

// least is what that share has sent which is behind all others but s, with the lock held.
func (f *fairness) least(s *share, now time.Time) int64 {
	if o := f.behind(s, now); o != nil {
		return o.sent
	}
	return nobody
}

// behind is that share, nil where no other has something to send.
func (f *fairness) behind(s *share, now time.Time) (least *share) {
	for _, o := range f.shares {
		if o != s && !o.stalled && (o.wants > 0 || now.Before(o.back)) && (least == nil || o.sent < least.sent) {
			least = o
		}
	}
	return least
}

// take asks for so many octets, and returns how many may be sent now: all or none.
func (s *share) take(octets int, now time.Time) int {
	f := s.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	least := f.least(s, now)
	if s.stalled {
		s.catchUp(least)
	}
	if least != nobody && s.sent-least >= fairLead {
		return 0
	}
	s.sent += int64(octets)
	s.last = now
	if s.streak += octets; s.streak >= fairLead {
		s.streak, s.patience = 0, min(2*s.patience, maxPatience)
	}
	if f.turn != nil && s.sent >= f.wakeAt && s.sent-int64(octets) < f.wakeAt {
		f.resume()
	}
	return octets
}

// resume lets those that pause look again, with the lock held.
func (f *fairness) resume() {
	if f.turn != nil {
		close(f.turn)
		f.turn = nil
	}
}

// pause waits until it may be worth asking again. Those that have sent nothing in the meantime are not waited for any more.
func (s *share) pause() {
	f := s.fair
	began := time.Now()
	var timer *time.Timer
	for {
		f.mu.Lock()
		behind := f.behind(s, time.Now())
		if behind == nil || s.sent-behind.sent < fairLead/2 {
			f.mu.Unlock()
			return
		}
		if wakeAt := s.sent - fairLead/2; f.turn == nil {
			f.turn, f.wakeAt = make(chan struct{}), wakeAt
		} else {
			f.wakeAt = min(f.wakeAt, wakeAt)
		}
		turn := f.turn
		if timer == nil {
			timer = time.NewTimer(behind.patience)
			defer timer.Stop()
		}
		f.mu.Unlock()
		select {
		case <-turn:
		case <-timer.C:
			f.giveUp(s, began)
			return
		}
	}
}

// giveUp does not wait any more for shares that are behind s and have sent nothing since.
func (f *fairness) giveUp(s *share, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.shares {
		if o != s && !o.stalled && s.sent-o.sent >= fairLead/2 && !o.last.After(since) {
			o.stalled, o.streak, o.patience = true, 0, max(o.patience/2, minPatience)
		}
	}
	f.resume()
}

// write writes to a stream, within the share.
func (s *share) write(q *quic.Stream, b []byte) (total int, err error) {
	if !s.begin(time.Now()) {
		total, err = q.Write(b)
		s.end(total, total, time.Now())
		return total, err
	}
	defer func() { s.end(total, 0, time.Now()) }()
	for {
		n, err := q.WriteWithLimit(b[total:], func(octets int) int { return s.take(octets, time.Now()) })
		total += n
		if err != quic.ErrWriteLimitReached {
			return total, err
		}
		s.pause()
	}
}
