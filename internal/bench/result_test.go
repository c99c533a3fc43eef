//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		name string
		of   []float64
		want float64
	}{
		{"nothing", nil, 0}, {"one", []float64{3}, 3}, {"odd", []float64{9, 1, 5}, 5}, {"even", []float64{4, 1, 3, 2}, 2.5},
		{"an outlier does not count", []float64{10, 11, 1000}, 11},
	} {
		if got := median(c.of); got != c.want {
			t.Errorf("%s: median(%v) = %v, want %v", c.name, c.of, got, c.want)
		}
	}
}

// example is a result with a few rows of each kind, on a machine whose owner is no friend.
func example() *Result {
	host := &Subject{Name: "host", Version: "no sandbox", MTU: 65536}
	netstack := &Subject{Name: "netstack", Version: "weir version 1", MTU: 1500, Link: "tap", Command: "weir run -- CMD"}
	pasta := &Subject{Name: "pasta", Version: `pasta "><script src=//x.example/>`, MTU: 65520, Command: "pasta -- CMD"}
	missing := &Subject{Name: "slirp4netns", Skipped: "slirp4netns is not installed"}
	res := &Result{Rounds: 3, Subjects: []*Subject{host, netstack, pasta, missing},
		Machine: Machine{Date: "2026-11-21", Kernel: "6.18\x1b[31m", CPU: `<img src="https://x.example/a.png">`, Cores: 2, Load: 0.5, Go: "go1.26"},
		Notes:   []string{"slirp4netns is not measured: slirp4netns is not installed", "pasta, TCP up, 1 stream: <b>i/o</b> timeout"}}
	up := Row{Metric: "throughput", Direction: "up", Streams: 1, Unit: "Gbit/s"}
	for i, s := range []*Subject{host, netstack, pasta} {
		for _, sample := range []float64{10, 11, 9} {
			res.add(s, up, sample/float64(1+i)).cpus = []float64{0.5}
		}
		r := res.add(s, Row{Metric: "rr", Streams: 16, Unit: "1/s"}, 1000*float64(1+i))
		r.p50s, r.p99s = []float64{20}, []float64{200 / float64(1+i)}
		res.add(s, Row{Metric: "start_ms", Unit: "ms"}, 2+30*float64(i))
	}
	res.add(netstack, Row{Metric: "rss_per_flow", Unit: "kB"}, 20)
	res.record(netstack, 7, 7)
	res.finish()
	res.Machine.LoadAfter = 1.5
	return res
}

// TestContract names each field that section 8 of the contract promises.
func TestContract(t *testing.T) {
	text, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine map[string]any
		Rows    []map[string]any
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"kernel", "cpu", "cores", "load"} {
		if _, ok := got.Machine[field]; !ok {
			t.Errorf("machine has no %s: %v", field, got.Machine)
		}
	}
	fields := []string{"subject", "metric", "direction", "streams", "mtu", "value", "unit", "cpu_s_per_gb", "p50", "p99", "samples"}
	if len(got.Rows) != 10 {
		t.Errorf("%d rows, want 10", len(got.Rows))
	}
	for _, row := range got.Rows {
		have := slices.Sorted(maps.Keys(row))
		if want := slices.Sorted(slices.Values(fields)); !slices.Equal(have, want) {
			t.Errorf("row has %v, want %v", have, want)
		}
	}
	row := got.Rows[0]
	want := map[string]any{"subject": "host", "metric": "throughput", "direction": "up", "streams": 1.0, "mtu": 65536.0, "value": 10.0,
		"unit": "Gbit/s", "cpu_s_per_gb": 0.5, "p50": nil, "p99": nil, "samples": []any{10.0, 11.0, 9.0}}
	if diff := cmp.Diff(want, row); diff != "" {
		t.Error(diff)
	}
}

func TestTargets(t *testing.T) {
	res := example()
	find := func(what, against string) Target {
		for _, g := range res.Targets {
			if g.Subject == "netstack" && g.What == what && g.Against == against {
				return g
			}
		}
		t.Fatalf("no target %s against %s", what, against)
		return Target{}
	}
	for _, c := range []struct {
		what, against string
		figure        Figure
		result        string
	}{
		{"TCP up, 1 stream", "host", 0.5, "floor"},
		{"TCP up, 1 stream", "pasta", 1.5, "floor"},
		{"TCP up, 8 streams", "pasta", 0, "not measured"},
		{"TCP up, 1 stream", "gvisor-tap-vsock 1500", 0, "not measured"},
		{"request-response, 16 streams", "pasta", Figure(2000.0 / 3000), "missed"},
		{"request-response, 16 streams, p99", "pasta", Figure(100 / (200 / 3.0)), "missed"},
		{"start of true, over a plain exec", "", 30, "floor"},
		{"memory per idle flow", "", 20, "floor"},
	} {
		if got := find(c.what, c.against); got.Figure != c.figure || got.Result != c.result {
			t.Errorf("%s against %q: %v, %s; want %v, %s", c.what, c.against, got.Figure, got.Result, c.figure, c.result)
		}
	}
	for _, c := range []struct {
		is     Target
		result string
	}{
		{Target{Floor: 0.4, Aim: 0.6, Figure: 0.4}, "floor"}, {Target{Floor: 0.4, Aim: 0.6, Figure: 0.6}, "aim"}, {Target{Floor: 0.4, Aim: 0.6, Figure: 0.39}, "missed"},
		{Target{Floor: 60, Aim: 25, Less: true, Figure: 60}, "floor"}, {Target{Floor: 60, Aim: 25, Less: true, Figure: 25}, "aim"},
		{Target{Floor: 60, Aim: 25, Less: true, Figure: 61}, "missed"}, {Target{Floor: 60, Aim: 25, Less: true}, "not measured"},
	} {
		c.is.judge()
		if c.is.Result != c.result {
			t.Errorf("%v: want %s", c.is, c.result)
		}
	}
}

func TestCheckFindsAMissingEvent(t *testing.T) {
	res := example()
	if err := res.Check(); err != nil {
		t.Error(err)
	}
	res.record(res.Subjects[1], 5, 4)
	if err := res.Check(); err == nil || err.Error() != "netstack recorded 11 of 12 flows: there must be one event for each" {
		t.Errorf("an event is missing, and Check says %v", err)
	}
}

const wantText = `2026-11-21, Linux 6.18\u001b[31m, <img src="https://x.example/a.png">, 2 cores, load 0.50 before and 1.50 after, uid 0, go1.26
3 interleaved rounds, medians, ~ where the samples lie more than a factor of 2 apart; client and server are the same Go program for all
host: no sandbox, MTU 65536
netstack: weir version 1, MTU 1500, link tap
pasta: pasta "><script src=//x.example/>, MTU 65520
slirp4netns: not measured: slirp4netns is not installed
netstack recorded 7 of 7 flows

metric                            unit    host  netstack  pasta
TCP up, 1 stream                  Gbit/s  10.0      5.00   3.33
TCP up, 1 stream, CPU             s/GB    0.50      0.50   0.50
request-response, 16 streams      1/s     1000      2000   3000
request-response, 16 streams, p50 us      20.0      20.0   20.0
request-response, 16 streams, p99 us       200       100   66.7
start of true, over a plain exec  ms                30.0   60.0
memory per idle flow              kB                20.0

target                               against  netstack  floor / aim             tproxy  floor / aim
TCP up, 1 stream                     host         0.50    0.4 / 0.6  floor met           0.65 / 0.8
TCP up, 1 stream                     pasta        1.50        1 / 2  floor met              1.5 / 3
request-response, 16 streams         pasta        0.67    0.7 / 1.1     MISSED            0.9 / 1.2
request-response, 16 streams, p99    pasta        1.50      1 / 0.5     MISSED              1 / 0.5
start of true, over a plain exec, ms              30.0      60 / 25  floor met              60 / 25
memory per idle flow, kB                          20.0      25 / 10  floor met               12 / 5

went wrong on the way:
  pasta, TCP up, 1 stream: <b>i/o</b> timeout
`

func TestText(t *testing.T) {
	var b strings.Builder
	if err := example().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return regexp.MustCompile(` +`).ReplaceAllString(s, " ") }
	if diff := cmp.Diff(squeeze(wantText), squeeze(b.String())); diff != "" {
		t.Error(diff)
	}
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Error("an escape sequence of the machine's reaches the terminal")
	}
	lines := strings.Split(b.String(), "\n")
	if head, row := lines[8], lines[9]; strings.Index(head, "host")+4 != strings.Index(row, "10.0")+4 {
		t.Errorf("columns do not end at the same place:\n%s\n%s", head, row)
	}
}

func TestShakySamplesAreMarked(t *testing.T) {
	res := example()
	res.add(res.Subjects[2], Row{Metric: "throughput", Direction: "up", Streams: 1}, 50)
	res.finish()
	var b strings.Builder
	res.WriteText(&b)
	if !strings.Contains(b.String(), "~3.50") || !strings.Contains(b.String(), "~0.10") {
		t.Errorf("no tilde, or the ratio is not to the best sample of pasta's, which was 5.00/50:\n%s", b.String())
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := example().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n| metric | unit | host | netstack | pasta |\n|---|---|---:|---:|---:|\n| TCP up, 1 stream | Gbit/s | 10.0 | 5.00 | 3.33 |\n",
		"\n| TCP up, 1 stream | host | 0.50 | 0.4 / 0.6 | floor met |", "- `pasta -- CMD`\n", "[bench-notes.md](bench-notes.md)",
		"- slirp4netns: not measured: slirp4netns is not installed\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

// TestPage: the page needs nothing and runs nothing, whatever the machine calls itself.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := example().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, pattern := range []string{`(?i)<(script|img|link|iframe|object|embed|svg|base|form)\b`, `(?i)\s(src|href|srcset|on[a-z]+)\s*=\s*["']`, `(?i)url\(`, `(?i)@import`, "\x1b"} {
		if found := regexp.MustCompile(pattern).FindString(text); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	for _, want := range []string{
		"default-src &#39;none&#39;", "prefers-color-scheme: dark", "&lt;img src=", "&lt;script src=", "<h2>TCP up, 1 stream <small>Gbit/s</small></h2>",
		`<div class="bar door" style="width: 50%">`, `<div class="bar host" style="width: 100%">`, `<div class="bar peer" style="width: 33%">`,
		`class="missed">MISSED`, "p99 66.7 us", "pasta, TCP up, 1 stream: &lt;b&gt;",
	} {
		if !strings.Contains(text, want) && !strings.Contains(text, strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

// TestFullDisk: a result that cannot be written is an error.
func TestFullDisk(t *testing.T) {
	for name, write := range map[string]func() error{
		"text":     func() error { return example().WriteText(full{}) },
		"markdown": func() error { return example().WriteMarkdown(full{}) },
		"html":     func() error { return example().WriteHTML(full{}) },
	} {
		if err := write(); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errFull = errors.New("no space left on device")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
