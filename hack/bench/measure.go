//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// load is one metric that the client measures.
type load struct {
	metric, direction, unit string
	what                    string
	streams                 int
	half                    bool // takes half the duration
}

var loads = []load{
	{"throughput", "up", "Gbit/s", "up", 1, false},
	{"throughput", "down", "Gbit/s", "down", 1, false},
	{"throughput", "up", "Gbit/s", "up", 8, false},
	{"throughput", "down", "Gbit/s", "down", 8, false},
	{"rr", "", "1/s", "rr", 1, true},
	{"rr", "", "1/s", "rr", 16, true},
	{"crr", "", "1/s", "crr", 1, true},
	{"crr", "", "1/s", "crr", 16, true},
	{"udp_pps", "up", "1/s", "udp-up", 1, true},
	{"udp_pps", "down", "1/s", "udp-down", 1, true},
}

// bench is one run.
type bench struct {
	options options
	dir     string
	weir    string // absolute path
	self    string // this binary, where every subject can execute it
	port    int
	server  *exec.Cmd
	stop    io.Closer // ends the server
	running []*running
	result  *result
}

// newBench starts the server and one client in every subject.
func newBench(o options, dir string) (*bench, error) {
	b := &bench{options: o, dir: dir}
	var err error
	if b.weir, err = filepath.Abs(o.weir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(b.weir); err != nil {
		return nil, fmt.Errorf("no weir to measure (make build): %w", err)
	}
	if b.self, err = b.installSelf(); err != nil {
		return nil, err
	}
	if err := b.startServer(); err != nil {
		return nil, err
	}
	b.result = &result{Machine: describeMachine(o.commit), Samples: o.samples}
	for _, s := range b.subjects() {
		b.result.Subjects = append(b.result.Subjects, s)
		if s.Skipped != "" {
			b.say("%s is skipped: %s", s.Name, s.Skipped)
			continue
		}
		r, err := s.startClient(b)
		if err != nil && (s.Name == "host" || s.Name == "weir") {
			b.close()
			return nil, err
		}
		if err != nil {
			s.Skipped = err.Error()
			b.say("%s is skipped: %v", s.Name, err)
			continue
		}
		b.running = append(b.running, r)
	}
	return b, nil
}

func (b *bench) installSelf() (string, error) {
	dir := filepath.Join(b.dir, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return copySelf(dir)
}

func (b *bench) startServer() error {
	b.server = exec.Command(b.self, "server")
	stdin, err := b.server.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := b.server.StdoutPipe()
	if err != nil {
		return err
	}
	b.server.Stderr = os.Stderr
	if err := playground.Start(b.server); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	b.stop = stdin
	if _, err := fmt.Fscan(bufio.NewReader(stdout), &b.port); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	return nil
}

func (b *bench) close() {
	for _, r := range b.running {
		r.stop()
	}
	b.running = nil
	b.stop.Close()
	b.server.Wait()
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// measure takes all samples. The order of the loops is the point: subjects take turns with every metric.
func (b *bench) measure() error {
	for round := range b.options.samples {
		b.say("round %d of %d, load %s", round+1, b.options.samples, loadAverage())
		for _, l := range loads {
			if !b.wanted(l.metric, l.direction, fmt.Sprint(l.streams)) {
				continue
			}
			for i := range b.running {
				if err := b.measureLoad(b.running[i], l); err == nil {
					continue
				}
				if err := b.restart(i); err != nil {
					return err
				}
			}
		}
		if err := b.measureStarts(); err != nil {
			return err
		}
	}
	for _, r := range b.running {
		b.measurePeak(r, row{Metric: "rss_peak"})
	}
	if err := b.countEvents(); err != nil {
		return err
	}
	if !b.wanted("rss_per_flow") {
		return nil
	}
	for range b.options.samples {
		for _, r := range b.running {
			if err := b.measureIdle(r.subject); err != nil {
				b.say("%s: idle flows: %v", r.Name, err)
			}
		}
	}
	return nil
}

// wanted reports whether -only matches.
func (b *bench) wanted(words ...string) bool {
	return b.options.only.MatchString(strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
}

// measurePeak takes the most memory that the subject's processes had so far, in two counts: the sum of what each has
// resident, and what they take together, where pages of the binary they share count once.
func (b *bench) measurePeak(r *running, at row) {
	if list := r.carriers(); len(list) > 0 {
		at.Unit, at.Direction = "MB", "sum"
		b.result.add(r.subject, at, float64(total(list, func(p process) int64 { return p.peak }))/1e6)
		at.Direction = "shared once"
		b.result.add(r.subject, at, float64(together(list, func(p process) int64 { return p.peak }))/1e6)
	}
}

// countEvents ends weir's client and compares what it did with the event log.
func (b *bench) countEvents() error {
	for i, r := range b.running {
		if r.Name != "weir" {
			continue
		}
		a, err := r.ask(order{What: "hello"})
		if err != nil {
			return err
		}
		r.stop()
		log, err := os.ReadFile(filepath.Join(b.dir, eventsFile))
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		b.result.Events = &recorded{Flows: a.Flows, Recorded: bytes.Count(log, []byte(`"event":"network-connect"`)) + suppressed(log)}
		b.running[i], err = r.subject.startClient(b)
		return err
	}
	return nil
}

// suppressed is how many network-connect events the log says that it did not write because there were too many a second.
func suppressed(log []byte) (sum int) {
	for _, m := range regexp.MustCompile(`"what":"events-suppressed".*"network-connect":(\d+)`).FindAllSubmatch(log, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		sum += n
	}
	return sum
}

// restart puts a new instance in the place of one that failed, so that what that one is still busy with disturbs nobody.
func (b *bench) restart(i int) error {
	b.running[i].kill()
	r, err := b.running[i].subject.startClient(b)
	if err == nil {
		b.running[i] = r
	}
	return err
}

// measureLoad has one client measure one metric. A subject that cannot do it has no sample.
func (b *bench) measureLoad(r *running, l load) error {
	d := b.options.duration
	if l.half {
		d /= 2
	}
	cpu := func(p process) time.Duration { return p.cpu }
	before := total(r.carriers(), cpu)
	a, err := r.ask(order{What: l.what, Target: r.hostPort(b.port), Streams: l.streams, For: d})
	if err != nil {
		b.say("%s: %s %s, %d at once: %v", r.Name, l.metric, l.direction, l.streams, err)
		return err
	}
	spent := total(r.carriers(), cpu) - before
	at := row{Metric: l.metric, Direction: l.direction, Streams: l.streams, Unit: l.unit}
	into := b.result.add(r.subject, at, a.Value)
	into.p50s, into.p99s = append(into.p50s, a.P50), append(into.p99s, a.P99)
	if a.Bytes > 0 && len(r.carriers()) > 0 {
		into.cpus = append(into.cpus, spent.Seconds()/(float64(a.Bytes)/1e9))
	}
	return nil
}

// measureStarts runs true in every subject, one after the other, many times.
func (b *bench) measureStarts() error {
	if !b.wanted("start_ms") {
		return nil
	}
	for range b.options.starts {
		for _, r := range b.running {
			start := time.Now()
			started, err := r.subject.start(b, nil, nil, "true")
			if err == nil {
				err = started.wait()
			}
			if err != nil {
				return err
			}
			b.result.add(r.subject, row{Metric: "start_ms", Unit: "ms"}, float64(time.Since(start).Microseconds())/1e3)
		}
	}
	return nil
}

// measureIdle opens idle connections in a fresh instance of the subject and looks at what its processes grew by.
func (b *bench) measureIdle(s *subject) error {
	r, err := s.startClient(b)
	if err != nil {
		return err
	}
	defer r.stop()
	if len(r.carriers()) == 0 {
		return nil
	}
	if _, err := r.ask(order{What: "rr", Target: r.hostPort(b.port), Streams: 1, For: settle}); err != nil {
		return err
	}
	rss := func(p process) int64 { return p.rss }
	before := total(r.carriers(), rss)
	b.measurePeak(r, row{Metric: "rss_start"})
	a, err := r.ask(order{What: "idle", Target: r.hostPort(b.port), Streams: b.options.idle})
	if err != nil {
		return err
	}
	time.Sleep(idleFor)
	grown := float64(total(r.carriers(), rss)-before) / a.Value
	b.result.add(s, row{Metric: "rss_per_flow", Unit: "kB"}, grown/1e3)
	b.measurePeak(r, row{Metric: "rss_peak_idle", Streams: b.options.idle})
	_, err = r.ask(order{What: "release"})
	return err
}

// idleFor is how long idle connections are idle before their memory is counted.
const idleFor = 3 * time.Second

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// label is the row's name for people.
func (r *row) label() string {
	name := map[string]string{
		"throughput": "TCP", "rr": "request-response", "crr": "connect-request-close", "udp_pps": "UDP 1200 B", "start_ms": "start of true",
		"rss_peak": "memory, peak under load,", "rss_start": "memory at start,", "rss_per_flow": "memory per idle flow", "rss_peak_idle": "memory with idle flows,",
	}[r.Metric]
	parts := []string{name}
	if r.Direction != "" {
		parts[0] += " " + r.Direction
	}
	switch {
	case r.Metric == "rss_peak_idle":
		parts = append(parts, fmt.Sprintf("%d flows", r.Streams))
	case r.Metric == "udp_pps" || r.Streams == 0:
	case r.Streams == 1:
		parts = append(parts, "1 stream")
	default:
		parts = append(parts, fmt.Sprintf("%d streams", r.Streams))
	}
	return strings.Join(parts, ", ")
}
