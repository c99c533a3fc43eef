//go:build linux

package main

import (
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// sample is what the kernel says of a data path.
type sample struct {
	at          time.Duration
	rss         int64 // kB
	threads     int
	descriptors int64
	cpu         time.Duration
}

// look takes a sample.
func look(pid int, since time.Time) (sample, error) {
	at := time.Since(since)
	p, err := boxed.Look(pid)
	return sample{at: at, rss: p.RSS >> 10, threads: p.Threads, descriptors: p.Descriptors, cpu: p.CPU}, err
}
