package netstack

import (
	"sync"
	"time"
)

// deadline is a moment that can be waited for and moved. The zero value never comes.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{} // nil until somebody waits or a deadline is set
}

// set moves the deadline to t, whether it has passed or not; the zero time means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.done == nil && t.IsZero() {
		return
	}
	if d.done == nil || isDone(d.done) {
		d.done = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.done)
		return
	}
	done := d.done
	d.timer = time.AfterFunc(wait, func() { d.expire(done) })
}

// expire closes done unless the deadline was moved meanwhile.
func (d *deadline) expire(done chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == done && !isDone(done) && d.timer != nil {
		close(done)
		d.timer = nil
	}
}

// expired returns a channel that is closed once the deadline has passed, wherever it is moved to until then.
func (d *deadline) expired() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

// passed says whether the deadline has passed.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return isDone(d.done)
}

// isDone says whether ch is closed; a nil channel is not.
func isDone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
