package flow

import (
	"sync"

	"github.com/weir-dev/weir/flow/policy"
)

// live are the flows that are open, for [Gate.Recheck].
type live struct {
	mu    sync.Mutex
	flows map[*visit]struct{}
}

func (l *live) add(f *visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flows == nil {
		l.flows = make(map[*visit]struct{})
	}
	l.flows[f] = struct{}{}
}

func (l *live) remove(f *visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flows, f)
}

// Recheck judges every open flow again by what was known of it, and resets those that are not allowed any more. Call it
// when the policy has changed: a connection that was kept open must not keep a rule alive that has ended.
func (g *Gate) Recheck() {
	g.live.mu.Lock()
	defer g.live.mu.Unlock()
	for f := range g.live.flows {
		q := f.question.Load()
		if q == nil {
			continue // not judged yet: it will be, by the policy as it is now
		}
		if d := g.Policy.Decide(*q); d.Verdict == policy.Deny {
			f.revoked.Store(&d)
			f.cancel(errPolicy)
		}
	}
}
