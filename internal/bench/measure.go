//go:build linux

package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Metrics are the names that rows have, but for those about memory that come along.
func Metrics() []string {
	return []string{"throughput", "rr", "crr", "connect_us", "udp_pps", "udp_arrived", "start_ms", "rss_per_flow"}
}

// load is one metric that the client measures.
type load struct {
	metric, direction, unit string
	what                    string
	streams                 int
	half                    bool // takes half the time
	rate                    int  // datagrams a second, of those with a pace
	tunnel                  bool // measured only where a tunnel is
}

var loads = []load{
	{"throughput", "up", "Gbit/s", "up", 1, false, 0, false},
	{"throughput", "down", "Gbit/s", "down", 1, false, 0, false},
	{"throughput", "up", "Gbit/s", "up", 8, false, 0, false},
	{"throughput", "down", "Gbit/s", "down", 8, false, 0, false},
	{"rr", "", "1/s", "rr", 1, true, 0, false},
	{"rr", "", "1/s", "rr", 16, true, 0, false},
	{"crr", "", "1/s", "crr", 1, true, 0, false},
	{"crr", "", "1/s", "crr", 16, true, 0, false},
	{"udp_pps", "up", "1/s", "udp-up", 1, true, 0, false},
	{"udp_pps", "down", "1/s", "udp-down", 1, true, 0, false},
	{"connect_us", "", "us", "connect", 1, true, 0, true},
	{"udp_arrived", "up", "%", "paced-up", 40000, true, 40000, true},
	{"udp_arrived", "down", "%", "paced-down", 40000, true, 40000, true},
	{"udp_arrived", "up", "%", "paced-up", 100000, true, 100000, true},
	{"udp_arrived", "down", "%", "paced-down", 100000, true, 100000, true},
}

// Measure takes all samples. It returns when all is measured, or with the error of a ctx that has ended; Open was given the
// same one. A subject that fails costs its own samples and a note.
func (b *Bench) Measure(ctx context.Context) (*Result, error) {
	for round := range b.config.Rounds {
		for _, l := range b.wantedLoads() {
			for i := range b.running {
				b.measureLoad(ctx, b.running[(i+round)%len(b.running)], l)
			}
			b.dropEnded(ctx)
		}
		for _, r := range b.running {
			if b.wanted("rss_peak") {
				b.measurePeak(r, Row{Metric: "rss_peak"})
			}
		}
		b.measureStarts(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if b.wanted("rss_per_flow") {
		for range b.config.Rounds {
			for _, r := range b.running {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				b.step("memory of idle flows, " + r.Label())
				if err := b.measureIdle(ctx, r.Subject); err != nil && ctx.Err() == nil {
					b.notef("%s, idle flows: %v", r.Label(), err)
				}
			}
		}
	}
	for _, r := range b.running {
		b.retire(r)
	}
	b.running = nil
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.result.finish()
	return b.result, nil
}

func (b *Bench) wantedLoads() []load {
	return slices.DeleteFunc(slices.Clone(loads), func(l load) bool {
		return l.tunnel && !b.config.Tunnel || !b.wanted(l.metric, l.direction, fmt.Sprint(l.streams))
	})
}

// wanted reports whether the config asks for a row.
func (b *Bench) wanted(words ...string) bool {
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	return b.config.Wanted == nil || b.config.Wanted(strings.Join(words, " "))
}

// step tells how far it is.
func (b *Bench) step(what string) {
	perRound := len(b.wantedLoads())
	for _, m := range []string{"start_ms", "rss_per_flow"} {
		if b.wanted(m) {
			perRound++
		}
	}
	if b.config.Progress != nil {
		b.config.Progress(b.steps, max(b.steps, perRound*b.config.Rounds*len(b.running)), what)
	}
	b.steps++
}

// measureLoad has one client measure one metric. A client that failed is replaced, so that what the old one is still busy
// with disturbs nobody.
func (b *Bench) measureLoad(ctx context.Context, r *running, l load) {
	if ctx.Err() != nil {
		return
	}
	row := Row{Metric: l.metric, Direction: l.direction, Streams: l.streams, Unit: l.unit}
	b.step(row.Title() + ", " + r.Label())
	d := b.config.For
	if l.half {
		d /= 2
	}
	cpu := func(p process) time.Duration { return p.cpu }
	before := total(r.carriers(), cpu)
	a, err := r.ask(order{What: l.what, Target: r.hostPort(b.port), Streams: l.streams, Rate: l.rate, For: d})
	if err != nil {
		if ctx.Err() == nil {
			b.notef("%s, %s: %v", r.Label(), row.Title(), err)
		}
		r.end()
		return
	}
	carriers := r.carriers()
	spent := total(carriers, cpu) - before
	into := b.result.add(r.Subject, row, a.Value)
	into.p50s, into.p99s = append(into.p50s, a.P50), append(into.p99s, a.P99)
	if a.Bytes > 0 && len(carriers) > 0 {
		into.cpus = append(into.cpus, spent.Seconds()/(float64(a.Bytes)/1e9))
	}
}

// dropEnded puts a new instance in the place of each that has ended.
func (b *Bench) dropEnded(ctx context.Context) {
	for i, r := range b.running {
		b.mu.Lock()
		alive := b.live[r]
		b.mu.Unlock()
		if alive || ctx.Err() != nil {
			continue
		}
		fresh, err := b.startClient(r.Subject)
		if err != nil {
			b.notef("%s is given up: %v", r.Label(), err)
		}
		b.running[i] = fresh
	}
	b.running = slices.DeleteFunc(b.running, func(r *running) bool { return r == nil })
}

// measureStarts runs true in every subject, one after the other, many times.
func (b *Bench) measureStarts(ctx context.Context) {
	if !b.wanted("start_ms") {
		return
	}
	for _, r := range b.running {
		b.step("start of true, " + r.Label())
		if ctx.Err() != nil {
			return
		}
	}
	failed := map[*running]bool{}
	for range b.config.Starts {
		for _, r := range b.running {
			if ctx.Err() != nil || failed[r] || r.tunnel != "" { // its start is that of a tunnel, which is there before the program
				continue
			}
			start := time.Now()
			started, err := b.launch(r.Subject, nil, nil, "true")
			if err == nil {
				err = started.wait()
			}
			if err != nil && ctx.Err() == nil {
				b.notef("%s, start of true: %v", r.Label(), err)
				failed[r] = true
				continue
			}
			b.result.add(r.Subject, Row{Metric: "start_ms", Unit: "ms"}, float64(time.Since(start).Microseconds())/1e3)
		}
	}
}

// measurePeak takes the most memory that the subject's processes had so far, in two counts: the sum of what each has
// resident, and what they take together, where pages of the binary they share count once.
func (b *Bench) measurePeak(r *running, at Row) {
	if list := r.carriers(); len(list) > 0 {
		peak := func(p process) int64 { return p.peak }
		at.Unit, at.Direction = "MB", "sum"
		b.result.add(r.Subject, at, float64(total(list, peak))/1e6)
		at.Direction = "shared once"
		b.result.add(r.Subject, at, float64(together(list, peak))/1e6)
	}
}

// measureIdle opens idle connections in a fresh instance of the subject and looks at what its processes grew by.
func (b *Bench) measureIdle(ctx context.Context, s *Subject) error {
	if s.Name == "host" || ctx.Err() != nil {
		return nil
	}
	r, err := b.startClient(s)
	if err != nil {
		return err
	}
	defer r.end()
	if _, err := r.ask(order{What: "rr", Target: r.hostPort(b.port), Streams: 1, For: settle}); err != nil {
		return err
	}
	rss := func(p process) int64 { return p.rss }
	before := r.carriers()
	hosted, user := r.sides()
	b.measurePeak(r, Row{Metric: "rss_start"})
	a, err := r.ask(order{What: "idle", Target: r.hostPort(b.port), Streams: b.config.Idle})
	if err != nil {
		return err
	}
	select {
	case <-time.After(b.config.Rest):
	case <-ctx.Done():
		return ctx.Err()
	}
	b.measureSides(ctx, r, [2][]process{hosted, user})
	after := r.carriers()
	b.result.add(s, Row{Metric: "rss_per_flow", Unit: "kB"}, float64(together(after, rss)-together(before, rss))/a.Value/1e3)
	b.result.add(s, Row{Metric: "rss_per_flow_sum", Unit: "kB"}, float64(total(after, rss)-total(before, rss))/a.Value/1e3)
	b.measurePeak(r, Row{Metric: "rss_peak_idle", Streams: b.config.Idle})
	if _, err = r.ask(order{What: "release"}); err == nil {
		b.retire(r)
	}
	return err
}

// retire ends a client in good order and compares what it did with the event log.
func (b *Bench) retire(r *running) {
	a, err := r.ask(order{What: "hello"})
	if err != nil {
		return // it was killed, or has been noted
	}
	r.stop()
	if r.Link == "" { // not a weir
		return
	}
	log, err := readBook(r.dir)
	if err != nil {
		b.notef("%s: %v", r.Label(), err)
	}
	b.result.record(r.Subject, a.Flows, log.connects)
}

// Title is the row's name for people.
func (r *Row) Title() string {
	name := map[string]string{
		"throughput": "TCP", "rr": "request-response", "crr": "connect-request-close", "udp_pps": "UDP 1200 B", "start_ms": "start of true",
		"rss_peak": "memory, peak under load,", "rss_start": "memory at start,", "rss_per_flow": "memory per idle flow",
		"rss_per_flow_sum": "memory per idle flow, sum", "rss_peak_idle": "memory with idle flows,",
		"connect_us": "connect", "udp_arrived": "UDP 1200 B", "idle_cpu": "CPU of idle flows,", "idle_rss": "memory of idle flows,",
	}[r.Metric]
	parts := []string{name}
	if r.Direction != "" {
		parts[0] += " " + r.Direction
	}
	switch {
	case r.Metric == "udp_arrived":
		parts = append(parts, fmt.Sprintf("of %d/s arrived", r.Streams))
	case r.Metric == "connect_us":
	case r.Metric == "rss_peak_idle", r.Metric == "idle_cpu", r.Metric == "idle_rss":
		parts = append(parts, fmt.Sprintf("%d flows", r.Streams))
	case r.Metric == "udp_pps" || r.Streams == 0:
	case r.Streams == 1:
		parts = append(parts, "1 stream")
	default:
		parts = append(parts, fmt.Sprintf("%d streams", r.Streams))
	}
	return strings.Join(parts, ", ")
}
