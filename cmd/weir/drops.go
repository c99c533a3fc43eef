//go:build linux && !client

package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tproxy/rules"
)

// What was not carried is told when it begins, and while it goes on every dropsEvery: whoever looks sees an attack while it
// runs. dropsLook is how soon a beginning is noticed.
const (
	dropsEvery = 10 * time.Second
	dropsLook  = time.Second
)

// drops turns counters of what was thrown away into events. Each event counts since the last one with the same What.
type drops struct {
	counters func() map[string]uint64
	emit     func(event.Details)

	mu   sync.Mutex
	told map[string]uint64    // how much of each counter was told
	last map[string]time.Time // and when
}

func newDrops(counters func() map[string]uint64, emit func(event.Details)) *drops {
	return &drops{counters: counters, emit: emit, told: map[string]uint64{}, last: map[string]time.Time{}}
}

// watch reports until ctx ends.
func (d *drops) watch(ctx context.Context) {
	tick := time.NewTicker(dropsLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.report(dropsEvery)
		}
	}
}

// report tells of each counter that has moved and was not told of for that long.
func (d *drops) report(every time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	counters, now := d.counters(), time.Now()
	for _, what := range slices.Sorted(maps.Keys(counters)) {
		last, before := d.last[what]
		if counters[what] == d.told[what] || before && now.Sub(last) < every {
			continue
		}
		d.emit(&event.Dropped{What: what, Count: counters[what] - d.told[what]})
		d.told[what], d.last[what] = counters[what], now
	}
}

// tellDrop returns what a drop is told with: the event, and once a line for people where another door would have carried it.
func (d *dataPath) tellDrop() func(event.Details) {
	if d.cfg.Quiet || d.cfg.Host != nil || d.cfg.Door != "tproxy" {
		return d.emit
	}
	var once sync.Once
	return func(e event.Details) {
		d.emit(e)
		if dropped, ok := e.(*event.Dropped); ok && dropped.What == rules.DropProtocol {
			once.Do(func() {
				d.ui.warnf("dropped what is neither TCP nor UDP, ping for one: --door tproxy does not carry it")
				d.ui.fix("--door both")
			})
		}
	}
}

// resolverDrops are the resolver's and the memory's counters of what was over a bound, by the name that an event has for
// them. Questions over one have their own events.
var resolverDrops = map[string]string{
	"udp-dropped":      "drop-dns-questions",
	"tcp-limited":      "drop-dns-connections",
	"confirm-limited":  "drop-dns-confirms",
	"evidence-evicted": "evicted-names",
	"evidence-refused": "drop-names",
	"heard-evicted":    "evicted-heard-names",
	"heard-refused":    "drop-heard-names",
	"watch-dropped":    "drop-dns-datagrams",
}

// counters are all counts of packets, connections and names that were given up for a bound or a filter.
func (d *dataPath) counters() map[string]uint64 {
	out := map[string]uint64{}
	counted := []map[string]uint64{d.gate.Counters(), {"drop-udp-tunnel": d.tunnelLost.Load()}}
	for _, door := range d.doors {
		counted = append(counted, door.Counters())
	}
	for _, from := range counted {
		for name, n := range from {
			if n > 0 && (strings.HasPrefix(name, "drop-") || strings.HasPrefix(name, "reject-") || strings.HasSuffix(name, "-evicted")) {
				out[name] += n
			}
		}
	}
	for _, from := range []map[string]uint64{d.dns.Counters(), d.memory.Counters()} {
		for name, n := range from {
			if what := resolverDrops[name]; what != "" && n > 0 {
				out[what] = n
			}
		}
	}
	return out
}
