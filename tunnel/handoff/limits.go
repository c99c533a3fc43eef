//go:build linux

package handoff

import (
	"sync/atomic"
	"time"
)

// What one data path may hold at the edge, where [Options] say nothing else.
const (
	DefaultStreams   = 2048 // open TCP flows: half of what one client takes, so that one sandbox leaves room for another
	DefaultDatagrams = 512  // open UDP flows
	DefaultOpening   = 1024 // opens and queries under way: as many dials as the gate has at one time
)

// Times of one data path.
const (
	// openTimeout bounds an open or a query, whatever the client does.
	openTimeout = 60 * time.Second

	// closeGrace is how long flows that the data path has closed may go on to deliver what it wrote, after it is gone.
	closeGrace = 5 * time.Second
)

// Options bound what one data path may do. Zero values are the defaults.
type Options struct {
	Streams, Datagrams, Opening int

	// Patience is how long the data path may leave its control socket full.
	Patience time.Duration

	// Counters, when set, is added to.
	Counters *Counters
}

// Counters are of all data paths of an edge.
type Counters struct {
	Streams, Datagrams, Opening atomic.Int64 // now

	Opened, Failed, Answered atomic.Uint64
	Limited                  atomic.Uint64 // opens and queries over a bound
	Malformed                atomic.Uint64 // data paths that did not keep to the format
	Stuck                    atomic.Uint64 // data paths that did not read what they had asked for
	DatagramsDropped         atomic.Uint64 // for data paths that did not read them
}

// Values are the counters by name.
func (c *Counters) Values() map[string]uint64 {
	return map[string]uint64{
		"streams": uint64(max(c.Streams.Load(), 0)), "datagrams": uint64(max(c.Datagrams.Load(), 0)), "opening": uint64(max(c.Opening.Load(), 0)),
		"opened": c.Opened.Load(), "failed": c.Failed.Load(), "answered": c.Answered.Load(),
		"limited": c.Limited.Load(), "malformed": c.Malformed.Load(), "stuck": c.Stuck.Load(), "datagrams_dropped": c.DatagramsDropped.Load(),
	}
}

func (o Options) withDefaults() Options {
	for _, f := range []struct {
		n   *int
		def int
	}{{&o.Streams, DefaultStreams}, {&o.Datagrams, DefaultDatagrams}, {&o.Opening, DefaultOpening}} {
		if *f.n <= 0 {
			*f.n = f.def
		}
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Counters == nil {
		o.Counters = &Counters{}
	}
	return o
}
