package client

import "time"

// Times of a supervisor. What is polled is polled every tick.
const (
	backoffBase  = 500 * time.Millisecond
	backoffCap   = 30 * time.Second
	healthyAfter = 30 * time.Second // a session that lived so long was no failure

	tick         = 2 * time.Second
	jump         = 10 * time.Second // of the wall clock in a tick, beyond it: the machine has slept
	pingEvery    = 6 * time.Second
	pingPatience = 4 * time.Second
	lastPatience = 10 * time.Second // for a session that has been replaced because it did not answer
	replaceEvery = time.Minute      // at most, because of that
	quicEvery    = 5 * time.Minute  // to try QUIC again while on WebSocket
	movePatience = 3 * time.Second  // for a session to answer on a new path
	attemptTime  = 20 * time.Second
	renewPause   = time.Minute // after a renewal that failed
	renewTime    = 15 * time.Second
	drainTime    = 30 * time.Second
)

// backoff says how long to wait before the next attempt: anything up to a bound that doubles (full jitter), so that clients
// that were lost at one time do not come back at one time.
type backoff struct {
	random func() float64
	bound  time.Duration
}

func (b *backoff) reset() { b.bound = 0 }

func (b *backoff) next() time.Duration {
	b.bound = min(max(2*b.bound, backoffBase), backoffCap)
	return time.Duration(b.random() * float64(b.bound))
}
