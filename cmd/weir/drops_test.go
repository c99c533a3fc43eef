//go:build linux && !client

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow/event"
)

// TestDropsAreToldWhileTheyHappen: at once when they begin, every ten seconds while they go on, the rest at the end.
func TestDropsAreToldWhileTheyHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counters := map[string]uint64{}
		var mu sync.Mutex // of counters and got
		var got []string
		start := time.Now()
		d := newDrops(func() map[string]uint64 {
			mu.Lock()
			defer mu.Unlock()
			return maps.Clone(counters)
		}, func(e event.Details) {
			mu.Lock()
			defer mu.Unlock()
			drop := e.(*event.Dropped)
			got = append(got, fmt.Sprintf("%.0fs %s %d", time.Since(start).Seconds(), drop.What, drop.Count))
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { d.watch(ctx); close(done) }()
		at := func(second float64) {
			time.Sleep(time.Until(start.Add(time.Duration(second * float64(time.Second)))))
			synctest.Wait()
		}
		count := func(what string, n uint64) {
			mu.Lock()
			defer mu.Unlock()
			counters[what] = n
		}
		at(3.5)
		count("drop-a", 5)
		at(4.5)
		count("drop-a", 7)
		count("drop-b", 1)
		at(15.5)
		count("drop-a", 8)
		at(16.5)
		cancel()
		<-done
		d.report(0)
		d.report(0)
		want := []string{"4s drop-a 5", "5s drop-b 1", "14s drop-a 2", "16s drop-a 1"}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}
