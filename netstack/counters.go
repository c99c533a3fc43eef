package netstack

import (
	"sync"
	"sync/atomic"
)

// counters are named event counts. A name is a constant beside the code that counts it; they are kebab case, and what
// was thrown away starts with "drop-".
type counters struct {
	m sync.Map // string -> *atomic.Uint64
}

func newCounters() *counters { return &counters{} }

// add adds n to the counter called name, which appears with its first count.
func (c *counters) add(name string, n uint64) {
	v, ok := c.m.Load(name)
	if !ok {
		v, _ = c.m.LoadOrStore(name, new(atomic.Uint64))
	}
	v.(*atomic.Uint64).Add(n)
}

// get returns one counter, 0 when it never moved.
func (c *counters) get(name string) uint64 {
	if v, ok := c.m.Load(name); ok {
		return v.(*atomic.Uint64).Load()
	}
	return 0
}

// snapshot copies all counters.
func (c *counters) snapshot() map[string]uint64 {
	out := map[string]uint64{}
	c.m.Range(func(k, v any) bool {
		out[k.(string)] = v.(*atomic.Uint64).Load()
		return true
	})
	return out
}
