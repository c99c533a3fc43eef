//go:build linux

package bench

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/weir-dev/weir/flow/event"
)

// line is one line of the table: a number of each subject that has it.
type line struct {
	label, unit string
	of          func(*Subject) (float64, bool)
	shaky       func(*Subject) bool // its samples are too far apart to be compared
}

// lines says what the table shows, in its order.
func (res *Result) lines() []line {
	var out []line
	seen := map[string]bool{}
	for _, r := range res.Rows {
		key := r.key()
		if seen[key] {
			continue
		}
		seen[key] = true
		part := func(suffix, unit string, of func(*Row) float64) {
			out = append(out, line{r.Title() + suffix, unit, func(s *Subject) (float64, bool) {
				if r := res.find(s, key); r != nil {
					v := of(r)
					return v, v != 0
				}
				return 0, false
			}, func(s *Subject) bool {
				r := res.find(s, key)
				return r != nil && r.shaky()
			}})
		}
		if r.Metric == "start_ms" {
			out = append(out, res.startLine(key))
			continue
		}
		part("", r.Unit, func(r *Row) float64 { return r.Value })
		if r.Metric == "rr" || r.Metric == "crr" {
			part(", p50", "us", func(r *Row) float64 { return float64(r.P50) })
			part(", p99", "us", func(r *Row) float64 { return float64(r.P99) })
		}
		if r.Metric == "throughput" && r.Streams == 1 {
			part(", CPU", "s/GB", func(r *Row) float64 { return float64(r.CPU) })
		}
	}
	return out
}

// startLine shows what a subject adds to the start of a program, which is what the host takes.
func (res *Result) startLine(key string) line {
	return line{"start of true, over a plain exec", "ms", func(s *Subject) (float64, bool) {
		host := res.subject("host", "")
		if host == nil || s == host {
			return 0, false
		}
		r, plain := res.find(s, key), res.find(host, key)
		if r == nil || plain == nil {
			return 0, false
		}
		return r.Value - plain.Value, true
	}, func(*Subject) bool { return false }}
}

// measured are the subjects that have columns.
func (res *Result) measured() (out []*Subject) {
	for _, s := range res.Subjects {
		if s.Skipped == "" {
			out = append(out, s)
		}
	}
	return out
}

// grid is the table as cells: metric, unit, and each subject.
func (res *Result) grid() [][]string {
	head := []string{"metric", "unit"}
	for _, s := range res.measured() {
		head = append(head, s.Label())
	}
	out := [][]string{head}
	for _, l := range res.lines() {
		cells := []string{l.label, l.unit}
		for _, s := range res.measured() {
			cell := number(l.of(s))
			if cell != "" && l.shaky(s) {
				cell = "~" + cell
			}
			cells = append(cells, cell)
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
func (res *Result) facts() []string {
	m := res.Machine
	what := m.Date
	if m.Version != "" {
		what += ", weir " + m.Version
	}
	if m.Commit != "" {
		what += ", commit " + m.Commit
	}
	out := []string{
		fmt.Sprintf("%s, Linux %s, %s, %d cores, load %.2f before and %.2f after, uid %d, %s", what, m.Kernel, m.CPU, m.Cores, m.Load, m.LoadAfter, m.User, m.Go),
		fmt.Sprintf("%d interleaved rounds, medians, ~ where the samples lie more than a factor of %d apart; client and server are the same Go program for all", res.Rounds, shakyRatio),
	}
	for _, s := range res.Subjects {
		text := fmt.Sprintf("%s: %s, MTU %d", s.Label(), s.Version, s.MTU)
		if s.Link != "" {
			text += ", link " + s.Link
		}
		if s.Skipped != "" {
			text = fmt.Sprintf("%s: not measured: %s", s.Label(), s.Skipped)
		}
		out = append(out, text)
	}
	for _, f := range res.Flows {
		if f.Opened == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("%s recorded %d of %d flows", (&Subject{Name: f.Subject, Variant: f.Variant}).Label(), f.Recorded, f.Opened))
	}
	for i := range out {
		out[i] = event.Escape(out[i])
	}
	return out
}

// failures are the notes that are not in the facts.
func (res *Result) failures() (out []string) {
	for _, n := range res.Notes {
		if !strings.Contains(n, " is not measured: ") {
			out = append(out, event.Escape(n))
		}
	}
	return out
}

// WriteText writes the result for a terminal.
func (res *Result) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range res.facts() {
		fmt.Fprintln(&b, f)
	}
	writeGrid(&b, res.grid(), 2)
	if targets := res.targetGrid(); targets != nil {
		writeGrid(&b, targets, 2)
	}
	if notes := res.failures(); len(notes) > 0 {
		fmt.Fprintln(&b, "\nwent wrong on the way:")
		for _, n := range notes {
			fmt.Fprintf(&b, "  %s\n", n)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeGrid writes cells in columns, after an empty line; the first left of them start at the left, numbers end at the right.
func writeGrid(b *strings.Builder, grid [][]string, left int) {
	widths := make([]int, len(grid[0]))
	for _, cells := range grid {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	b.WriteString("\n")
	for _, cells := range grid {
		var line strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < left {
				line.WriteString(c + pad + "  ")
			} else {
				line.WriteString(pad + c + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// WriteMarkdown writes the result as docs/bench.md.
func (res *Result) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Measurements\n\nWritten by `go run ./hack/bench -markdown docs/bench.md`; `make bench` measures again. ")
	b.WriteString("What is measured, and how, is told in `internal/bench/doc.go`; what each step gained, in [bench-notes.md](bench-notes.md).\n\n")
	for _, f := range res.facts() {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	if targets := res.targetGrid(); targets != nil {
		b.WriteString("\n## Targets\n\nRatios, unless the target names a unit: the door's figure over that of the subject it is held against, or over its best sample where those lie far apart (~), so that a peer that stalls is no advantage. For p99, start and memory less is better.\n\n")
		markdownGrid(&b, targets, 2)
	}
	b.WriteString("\n## Everything\n\n")
	markdownGrid(&b, res.grid(), 2)
	b.WriteString("\n\"sum\" adds what each process has resident, the three of weir are one binary; everything else counts shared pages once. Memory is that of processes: what the kernel holds for a socket, ")
	b.WriteString("or for the pipe between two, is not in it. A blank is a load that the subject did not finish, or that says nothing of it.\n")
	if notes := res.failures(); len(notes) > 0 {
		b.WriteString("\nWent wrong on the way:\n\n")
		for _, n := range notes {
			fmt.Fprintf(&b, "- %s\n", n)
		}
	}
	b.WriteString("\nHow each was started:\n\n")
	for _, s := range res.measured() {
		if s.Name != "host" {
			fmt.Fprintf(&b, "- `%s`\n", s.Command)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markdownGrid(b *strings.Builder, grid [][]string, left int) {
	cell := strings.NewReplacer("|", "\\|", "\n", " ")
	for i, cells := range grid {
		b.WriteString("|")
		for _, c := range cells {
			b.WriteString(" " + cell.Replace(c) + " |")
		}
		b.WriteString("\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", left) + strings.Repeat("|---:", len(cells)-left) + "|\n")
		}
	}
}
