package netstack

import (
	"time"

	"github.com/weir-dev/weir/flow"
)

const (
	// refusalMemory is how long a refused tuple is answered from memory. It is short, because a program may well ask
	// its resolver and then try again from the same socket; maxRefusals bounds how many tuples are remembered.
	refusalMemory = 500 * time.Millisecond
	maxRefusals   = 1024
)

// refusals remembers which tuples were refused lately. The zero value is ready; the table's mutex guards it.
type refusals struct {
	by    map[datagramKey]refusal
	order []datagramKey // oldest first; as long as by
}

type refusal struct {
	reason flow.Reason
	until  time.Duration
}

func (r *refusals) lookup(key datagramKey, now time.Duration) (flow.Reason, bool) {
	e, ok := r.by[key]
	return e.reason, ok && now < e.until
}

// add remembers key at the price of the oldest when there are too many.
func (r *refusals) add(key datagramKey, reason flow.Reason, now time.Duration) {
	r.expire(now)
	if _, known := r.by[key]; known {
		return
	}
	if len(r.order) == maxRefusals {
		delete(r.by, r.order[0])
		r.order = r.order[1:]
	}
	if r.by == nil {
		r.by = make(map[datagramKey]refusal)
	}
	r.by[key] = refusal{reason: reason, until: now + refusalMemory}
	r.order = append(r.order, key)
}

// expire drops what is too old and returns how long the oldest of the rest has left, 0 when there is none.
func (r *refusals) expire(now time.Duration) time.Duration {
	for len(r.order) > 0 {
		if left := r.by[r.order[0]].until - now; left > 0 {
			return left
		}
		delete(r.by, r.order[0])
		r.order = r.order[1:]
	}
	*r = refusals{}
	return 0
}
