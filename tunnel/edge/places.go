package edge

import "sync"

// places bounds how many of something there may be at one time: in all, and of each K.
type places[K comparable] struct {
	total, each int

	mu   sync.Mutex
	held int
	by   map[K]int
}

func newPlaces[K comparable](total, each int) *places[K] {
	return &places[K]{total: total, each: each, by: map[K]int{}}
}

// take returns how to give the place back, once; nil where there is none.
func (p *places[K]) take(k K) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held >= p.total || p.by[k] >= p.each {
		return nil
	}
	p.held++
	p.by[k]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held--
		if p.by[k]--; p.by[k] == 0 {
			delete(p.by, k)
		}
	}
}
