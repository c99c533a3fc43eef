//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow/event"
)

// Each writer has logBatch events in its hands at once, as a busy sandbox has between two rounds of its log. All of them
// together write logTotal, and none of them more than logEach, which a log takes without holding anybody back.
const (
	logBatch = 64
	logTotal = 256000
	logEach  = 16000
)

// measureLog has more and more writers fill one log as fast as it goes, without sandboxes: what the lock among them costs.
// Each waits for its batch to be written before it makes the next one.
func measureLog(o options, dir string) (*table, error) {
	t := &table{title: "Writers of one log", unit: "writers", columns: []column{
		{"events", "1/s", true}, {"CPU per event", "us", true}, {"batch on disk, median", "ms", false}, {"p99", "ms", false}, {"last writer after first", "s", false}, {"events lost", "", false},
	}}
	for _, n := range append([]int{1}, sizes(max(o.sandboxes, 10), 10)...) {
		row, err := logRow(dir, n)
		if err != nil {
			return t, err
		}
		t.add(n, row)
	}
	return t, nil
}

func logRow(dir string, writers int) ([]float64, error) {
	home, err := os.MkdirTemp(dir, "log-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(home)
	each := max(1, min(logTotal/writers, logEach)/logBatch)
	batches, ends, errs := make([][]float64, writers), make([]time.Time, writers), make([]error, writers)
	var work sync.WaitGroup
	begin, was := time.Now(), cpuTime()
	for i := range writers {
		work.Go(func() {
			batches[i], errs[i] = writeLog(filepath.Join(home, "events.jsonl"), each)
			ends[i] = time.Now()
		})
	}
	work.Wait()
	took, busy := time.Since(begin), cpuTime()-was
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f := &fleet{dir: home}
	written, err := f.logged(connectEvent)
	if err != nil {
		return nil, err
	}
	waits := slices.Concat(batches...)
	slices.Sort(waits)
	spread := slices.MaxFunc(ends, time.Time.Compare).Sub(slices.MinFunc(ends, time.Time.Compare))
	return []float64{float64(written) / took.Seconds(), float64(busy.Microseconds()) / float64(max(1, written)), waits[len(waits)/2], waits[len(waits)*99/100], spread.Seconds(),
		float64(int64(writers*each*logBatch) - written)}, nil
}

// writeLog returns how long each batch took, in milliseconds.
func writeLog(path string, batches int) (took []float64, err error) {
	log, err := event.OpenFile(path, event.Limits{Keep: 16})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for i := range batches {
		begin := time.Now()
		for j := range logBatch {
			log.Emit(&event.Event{Time: time.Now(), App: "scale", Sandbox: "7f3a9c00", Flow: fmt.Sprintf("7f3a9c00-%d", i*logBatch+j), Details: &event.Connect{
				Hostname: "api.shop.example", NameSource: "dns", Names: []string{"api.shop.example"}, Dst: hosts[0], Src: netip.MustParseAddrPort("10.77.0.2:51234"),
				Protocol: "tcp", Route: "direct", Verdict: "allow", Rule: "flag:1", Door: "netstack"}})
		}
		if err := log.Flush(ctx); err != nil {
			return took, errors.Join(err, log.Close())
		}
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
	}
	return took, log.Close()
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
