//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// perSandbox is how many flows one sandbox gets at most; its own bound is 8192.
const perSandbox = 2000

// probes is how many flows are timed one by one at each size.
const probes = 200

// measureFlows opens more and more flows in as few sandboxes as hold them.
func measureFlows(f *fleet, o options) (t *table, err error) {
	boxes := max(1, (o.flows+perSandbox-1)/perSandbox)
	t = &table{title: fmt.Sprintf("Flows in %d sandboxes, --door %s", boxes, f.door), unit: "flows", columns: []column{
		{"opened", "1/s", true}, {"memory, all", "MB", false}, {"memory per flow", "kB", true}, {"idle CPU, all", "ms/s", false}, {"one flow more", "us", true},
		{"descriptors", "", false}, {"threads", "", false}, {"events lost", "", false},
	}}
	defer func() {
		took, stopped := f.stop()
		t.note("%d sandboxes ended in %.1f s", boxes, took.Seconds())
		err = errors.Join(err, stopped)
	}()
	for range boxes {
		if _, err := f.start(); err != nil {
			return t, err
		}
	}
	time.Sleep(settle)
	empty, err := f.look()
	if err != nil {
		return t, err
	}
	open, probed := 0, int64(0)
	for _, n := range sizes(o.flows, 1000) {
		if err := f.room(); err != nil {
			t.note("stopped before %d: %v", n, err)
			return t, nil
		}
		began := time.Now()
		if err := f.open(n - open); err != nil {
			return t, err
		}
		rate := float64(n-open) / time.Since(began).Seconds()
		open = n
		time.Sleep(settle)
		c, err := f.idle(o.idle)
		if err != nil {
			return t, err
		}
		micros, err := askOne(f.boxes[0], fmt.Sprintf("probe %d", probes))
		if err != nil {
			return t, err
		}
		probed += probes
		time.Sleep(settle / 3)
		begun, err := f.logged(connectEvent)
		if err != nil {
			return t, err
		}
		const mb = 1 << 20
		t.add(n, []float64{rate, float64(c.memory()) / mb, float64(c.memory()-empty.memory()) / 1024 / float64(n), c.busy.Seconds() * 1000 / o.idle.Seconds(), float64(micros),
			float64(c.fds), float64(c.threads), float64(int64(open) + probed - begun)})
	}
	return t, nil
}

// open has n flows more opened, spread over all sandboxes.
func (f *fleet) open(n int) error {
	share := map[*boxed.Box]int{}
	for i, b := range f.boxes {
		share[b] = n*(i+1)/len(f.boxes) - n*i/len(f.boxes)
	}
	return f.each(func(b *boxed.Box) error {
		_, err := b.Ask(fmt.Sprintf("open %d", share[b]))
		return err
	})
}

func askOne(b *boxed.Box, order string) (n int64, err error) {
	answer, err := b.Ask(order)
	if err == nil {
		_, err = fmt.Sscan(answer, &n)
	}
	return n, err
}
