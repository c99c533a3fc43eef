//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// result is what -json prints.
type result struct {
	Machine  machine    `json:"machine"`
	Samples  int        `json:"rounds"`
	Subjects []*subject `json:"subjects"`
	Rows     []*row     `json:"rows"`
	Events   *recorded  `json:"events,omitempty"`
}

// recorded compares weir's event log with the flows that its client opened.
type recorded struct{ Flows, Recorded int }

// row is one metric of one subject.
type row struct {
	Subject   string    `json:"subject"`
	Metric    string    `json:"metric"`
	Direction string    `json:"direction,omitempty"`
	Streams   int       `json:"streams,omitempty"`
	MTU       int       `json:"mtu"`
	Value     float64   `json:"value"` // the median
	Unit      string    `json:"unit"`
	CPU       float64   `json:"cpu_s_per_gb,omitempty"` // of the processes that carry, medians like what follows
	P50       float64   `json:"p50,omitempty"`          // microseconds
	P99       float64   `json:"p99,omitempty"`
	Samples   []float64 `json:"samples"`

	p50s, p99s, cpus []float64
}

// key is what makes rows of different subjects comparable.
func (r *row) key() string { return fmt.Sprint(r.Metric, r.Direction, r.Streams) }

// add puts one sample into the row like at, and returns the row.
func (res *result) add(s *subject, at row, sample float64) *row {
	at.Subject, at.MTU = s.Name, s.MTU
	r := res.find(s.Name, at.key())
	if r == nil {
		r = &at
		res.Rows = append(res.Rows, r)
	}
	r.Samples = append(r.Samples, sample)
	r.Value = median(r.Samples)
	return r
}

func (res *result) find(subject, key string) *row {
	for _, r := range res.Rows {
		if r.Subject == subject && r.key() == key {
			return r
		}
	}
	return nil
}

// finish computes the medians of what came along with the values.
func (res *result) finish() {
	for _, r := range res.Rows {
		r.P50, r.P99, r.CPU = median(r.p50s), median(r.p99s), median(r.cpus)
	}
}

// line is one line of the table: a number of each subject that has it.
type line struct {
	label, unit string
	of          func(subject string) (float64, bool)
	shaky       func(subject string) bool // its samples are too far apart to be compared
}

// shakyRatio is how far apart the samples of a number may be before it is shown with a tilde and without a ratio.
const shakyRatio = 2

// lines says what the table shows, in its order.
func (res *result) lines() []line {
	var out []line
	seen := map[string]bool{}
	for _, r := range res.Rows {
		key := r.key()
		if seen[key] {
			continue
		}
		seen[key] = true
		part := func(suffix, unit string, of func(*row) float64) {
			out = append(out, line{r.label() + suffix, unit, func(subject string) (float64, bool) {
				if r := res.find(subject, key); r != nil {
					v := of(r)
					return v, v != 0
				}
				return 0, false
			}, func(subject string) bool {
				r := res.find(subject, key)
				return r != nil && slices.Max(r.Samples) > shakyRatio*slices.Min(r.Samples)
			}})
		}
		if r.Metric == "start_ms" {
			out = append(out, line{"start of true, over a plain exec", "ms", func(subject string) (float64, bool) {
				r, plain := res.find(subject, key), res.find("host", key)
				if r == nil || plain == nil || r == plain {
					return 0, false
				}
				return r.Value - plain.Value, true
			}, func(string) bool { return false }})
			continue
		}
		part("", r.Unit, func(r *row) float64 { return r.Value })
		if r.Metric == "rr" || r.Metric == "crr" {
			part(", p50", "us", func(r *row) float64 { return r.P50 })
			part(", p99", "us", func(r *row) float64 { return r.P99 })
		}
		if r.Metric == "throughput" && r.Streams == 1 {
			part(", CPU", "s/GB", func(r *row) float64 { return r.CPU })
		}
	}
	return out
}

// grid is the table as cells: metric, unit, each subject, and weir's ratio to host and to pasta.
func (res *result) grid() [][]string {
	head := []string{"metric", "unit"}
	var shown []string
	for _, s := range res.Subjects {
		if s.Skipped == "" {
			shown = append(shown, s.Name)
		}
	}
	head = append(head, shown...)
	var against []string
	for _, other := range []string{"host", "pasta"} {
		if slices.Contains(shown, other) {
			against = append(against, other)
			head = append(head, "weir/"+other)
		}
	}
	out := [][]string{head}
	for _, l := range res.lines() {
		cells := []string{l.label, l.unit}
		for _, s := range shown {
			cell := number(l.of(s))
			if cell != "" && l.shaky(s) {
				cell = "~" + cell
			}
			cells = append(cells, cell)
		}
		weir, ok := l.of("weir")
		for _, other := range against {
			if base, has := l.of(other); ok && has && base != 0 && !l.shaky(other) && !l.shaky("weir") {
				cells = append(cells, fmt.Sprintf("%.2f", weir/base))
			} else {
				cells = append(cells, "")
			}
		}
		out = append(out, cells)
	}
	return out
}

// number shows three digits that matter.
func number(v float64, ok bool) string {
	switch {
	case !ok:
		return ""
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// facts are the lines that say what was measured where.
func (res *result) facts() []string {
	m := res.Machine
	out := []string{
		fmt.Sprintf("%s, commit %s, Linux %s, %s, %d cores, load %s before and %s after, uid %d, %s",
			m.Date, m.Commit, m.Kernel, m.CPU, m.Cores, m.Load[0], m.Load[1], m.User, m.Go),
		fmt.Sprintf("%d interleaved rounds, medians, ~ where the samples lie more than a factor of 2 apart; client and server are the same Go program for all", res.Samples),
	}
	for _, s := range res.Subjects {
		text := fmt.Sprintf("%s: %s, MTU %d", s.Name, s.Version, s.MTU)
		if s.Skipped != "" {
			text = fmt.Sprintf("%s: skipped, %s", s.Name, s.Skipped)
		}
		out = append(out, text)
	}
	if e := res.Events; e != nil {
		out = append(out, fmt.Sprintf("weir recorded %d of %d flows", e.Recorded, e.Flows))
	}
	return out
}

// text is the result for a terminal.
func (res *result) text() string {
	var b strings.Builder
	for _, f := range res.facts() {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintln(&b)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range res.grid() {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	return b.String()
}

// markdown is the result as docs/bench.md.
func (res *result) markdown() string {
	var b strings.Builder
	b.WriteString("# Measurements\n\nWritten by `go run ./hack/bench -markdown docs/bench.md`; `make bench` measures again. ")
	b.WriteString("What is measured, and how, is told in `hack/bench/main.go`; what each step gained, in [bench-notes.md](bench-notes.md).\n\n")
	for _, f := range res.facts() {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	b.WriteString("\n")
	for i, cells := range res.grid() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|---|---|%s\n", strings.Repeat("---:|", len(cells)-2))
		}
	}
	b.WriteString("\n\"sum\" adds what each process has resident, the three of weir are one binary; \"shared once\" counts its pages once. A blank is a load that the subject did not finish, or that says nothing of it.\n")
	b.WriteString("\nHow each was started:\n\n")
	for _, s := range res.Subjects {
		if s.Skipped == "" && s.Name != "host" {
			fmt.Fprintf(&b, "- `%s`\n", s.Command)
		}
	}
	return b.String()
}
