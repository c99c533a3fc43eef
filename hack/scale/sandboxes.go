//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// sizes are those that are looked at on the way to most.
func sizes(most, first int) (list []int) {
	for unit := first; ; unit *= 10 {
		for _, n := range []int{unit, 2 * unit, 5 * unit} {
			if n >= most {
				return append(list, most)
			}
			list = append(list, n)
		}
	}
}

// settle is how long things may calm down before they are looked at: the data path gives back memory a second after its
// number of flows has.
const settle = 3 * time.Second

// certain is from how many sandboxes on the memory that the machine has left says something about them.
const certain = 200

const connectEvent, closeEvent = `"event":"network-connect"`, `"event":"network-close"`

// measureSandboxes starts more and more of them. What was measured when something fails comes with the error.
func measureSandboxes(f *fleet, o options) (t *table, err error) {
	t = &table{title: fmt.Sprintf("Sandboxes, --door %s", f.door), unit: "sandboxes", columns: []column{
		{"start, median", "ms", true}, {"start, p95", "ms", true}, {"memory each", "MB", true}, {"launcher", "MB", false}, {"data path", "MB", false}, {"init", "MB", false},
		{"program", "MB", false}, {"machine, each", "MB", false}, {"idle CPU each", "ms/s", true}, {"threads each", "", true}, {"descriptors each", "", true},
		{"flows made", "1/s", false}, {"events", "1/s", false}, {"events lost", "", false}, {"CPU per event", "us", true}, {"of it launchers", "us", true},
	}}
	f.had = boxed.Available()
	defer func() {
		n := len(f.boxes)
		took, stopped := f.stop()
		t.note("%d sandboxes ended in %.1f s", n, took.Seconds())
		err = errors.Join(err, stopped)
	}()
	for _, n := range sizes(o.sandboxes, 10) {
		row, err := sandboxRow(f, o, n)
		if errors.Is(err, errFull) {
			t.note("stopped before %d: %v", n, err)
			return t, nil
		}
		if err != nil {
			return t, err
		}
		t.add(n, row)
	}
	return t, nil
}

func sandboxRow(f *fleet, o options, n int) ([]float64, error) {
	var starts []float64
	for len(f.boxes) < n {
		d, err := f.start()
		if err != nil {
			return nil, err
		}
		starts = append(starts, float64(d.Microseconds())/1000)
	}
	slices.Sort(starts)
	time.Sleep(settle)
	c, err := f.idle(o.idle)
	if err != nil {
		return nil, err
	}
	b, err := burst(f, o.burst)
	if err != nil {
		return nil, err
	}
	each := func(v float64) float64 { return v / float64(n) }
	const mb = 1 << 20
	machine := math.NaN()
	if n >= certain {
		machine = each(float64(f.had-boxed.Available()) / mb)
	}
	return []float64{
		starts[len(starts)/2], starts[len(starts)*95/100], each(float64(c.memory()) / mb), each(float64(c.launcher) / mb), each(float64(c.dataPath) / mb), each(float64(c.init) / mb),
		each(float64(c.programs) / mb), machine, each(c.busy.Seconds() * 1000 / o.idle.Seconds()), each(float64(c.threads)), each(float64(c.fds)),
		b.flows, b.events, b.lost, b.cpu, b.launchers,
	}, nil
}

// bursts is what came of flows that all sandboxes made at once.
type bursts struct{ flows, events, lost, cpu, launchers float64 }

func burst(f *fleet, d time.Duration) (b bursts, err error) {
	before, err := f.events()
	if err != nil {
		return b, err
	}
	was, err := f.look()
	if err != nil {
		return b, err
	}
	begin := time.Now()
	made, err := f.ask("burst " + d.String())
	if err != nil {
		return b, err
	}
	took := time.Since(begin).Seconds()
	time.Sleep(settle)
	now, err := f.look()
	if err != nil {
		return b, err
	}
	after, err := f.events()
	written := float64(after - before)
	b = bursts{flows: float64(made) / took, events: written / took, lost: float64(2*made) - written}
	b.cpu = float64((now.busy - was.busy).Microseconds()) / max(1, written)
	b.launchers = float64((now.launcherBusy - was.launcherBusy).Microseconds()) / max(1, written)
	return b, err
}

// events counts those that say that a flow began or ended.
func (f *fleet) events() (int64, error) {
	begun, err := f.logged(connectEvent)
	if err != nil {
		return 0, err
	}
	ended, err := f.logged(closeEvent)
	return begun + ended, err
}
