//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// column is a figure; grows says that it is one that must not grow with the size (or, of a rate, fall).
type column struct {
	name, unit string
	steady     bool
}

// table is what was measured, a row for each size.
type table struct {
	title, unit string
	columns     []column
	sizes       []int
	rows        [][]float64
	notes       []string
}

func (t *table) add(size int, row []float64) {
	t.sizes, t.rows = append(t.sizes, size), append(t.rows, row)
	if len(t.rows) == 1 {
		fmt.Printf("\n%s\n%s\n", t.title, strings.Join(t.header(), "; "))
	}
	fmt.Println(strings.Join(t.cells(len(t.rows)-1), "; "))
}

func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
	fmt.Println(t.notes[len(t.notes)-1])
}

func (t *table) header() []string {
	out := []string{t.unit}
	for _, c := range t.columns {
		name := c.name
		if c.unit != "" {
			name += ", " + c.unit
		}
		out = append(out, name)
	}
	return out
}

func (t *table) cells(row int) []string {
	out := []string{strconv.Itoa(t.sizes[row])}
	for _, v := range t.rows[row] {
		out = append(out, number(v))
	}
	return out
}

// last is the line that compares the last row with the first, where a figure is to be the same at every size.
func (t *table) last() []string {
	out := []string{"last / first"}
	for i, c := range t.columns {
		cell := ""
		if first := t.rows[0][i]; c.steady && first != 0 {
			cell = fmt.Sprintf("%.2f", t.rows[len(t.rows)-1][i]/first)
		}
		out = append(out, cell)
	}
	return out
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return ""
	case v == float64(int64(v)) || v >= 1000 || v <= -1000:
		return strconv.FormatInt(int64(v), 10)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// report is all tables.
type report struct {
	options
	started time.Time
	machine string
	tables  []*table
	err     error
}

func (r *report) begin() {
	r.started = time.Now()
	version, _ := exec.Command(r.weir, "--version").Output()
	commit, _ := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output() // "" outside of a clone
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	average, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(average), " ")
	r.machine = fmt.Sprintf("%s, commit %s, %s, Linux %s, %d cores, load %s, uid %d", r.started.Format(time.DateOnly), strings.TrimSpace(string(commit)), strings.TrimSpace(string(version)), strings.TrimSpace(string(kernel)), runtime.NumCPU(), load, os.Getuid())
	fmt.Println(r.machine)
}

func (r *report) add(t *table, err error) {
	if len(t.rows) > 0 {
		r.tables = append(r.tables, t)
		fmt.Println(strings.Join(t.last(), "; "))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", t.title, err)
	}
	r.err = errors.Join(r.err, err)
}

// write writes docs/scale.md, or what -markdown says.
func (r *report) write() error {
	if r.markdown == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Scale\n\nWritten by `go run ./hack/scale -markdown docs/scale.md`; `make scale` measures again. What is measured, and how, is told in `hack/scale/main.go`.\n\n")
	fmt.Fprintf(&b, "- %s\n- each is left alone for %v and makes flows for %v at each size\n", r.machine, r.idle, r.burst)
	b.WriteString("- memory is the processes' proportional share (PSS): pages of the one binary count once. The kernel's for sockets, the programs inside and the servers are not in it\n")
	b.WriteString("- \"last / first\" is there where a figure is to stay the same: 1 is growth in proportion\n")
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n## %s\n\n", t.title)
		line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
		line(t.header())
		b.WriteString(strings.Repeat("|---:", len(t.columns)+1) + "|\n")
		for i := range t.rows {
			line(t.cells(i))
		}
		line(t.last())
		for _, n := range t.notes {
			fmt.Fprintf(&b, "\n%s.\n", n)
		}
	}
	return os.WriteFile(r.markdown, []byte(b.String()), 0o644)
}
