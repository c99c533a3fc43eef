package clientconfig

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	// diffContext is how many unchanged lines stand around a change.
	diffContext = 3

	// maxDiffCells bounds the table of the line by line comparison; above, the part that differs is shown as a whole.
	maxDiffCells = 4 << 20
)

// Diff returns the unified diff of two contents of the file at path; empty when they are equal. Strings are as in the
// file: whoever shows it on a terminal must escape it.
func Diff(path string, before, after []byte) string {
	if bytes.Equal(before, after) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", path, path)
	ops := compare(lines(before), lines(after))
	for from := 0; from < len(ops); {
		if ops[from].mark == ' ' {
			from++
			continue
		}
		to := hunkEnd(ops, from)
		writeHunk(&b, ops, max(0, from-diffContext), min(len(ops), to+diffContext))
		from = to
	}
	return b.String()
}

// op is one line of a diff: common (' '), only before ('-') or only after ('+'), with the numbers of lines before it.
type op struct {
	mark     byte
	text     string
	old, new int
}

// hunkEnd returns where the changes that share their context with the one at from end.
func hunkEnd(ops []op, from int) int {
	end := from
	for i := from; i < len(ops) && i <= end+2*diffContext; i++ {
		if ops[i].mark != ' ' {
			end = i + 1
		}
	}
	return end
}

func writeHunk(b *strings.Builder, ops []op, from, to int) {
	olds, news := 0, 0
	for _, o := range ops[from:to] {
		if o.mark != '+' {
			olds++
		}
		if o.mark != '-' {
			news++
		}
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", span(ops[from].old, olds), span(ops[from].new, news))
	for _, o := range ops[from:to] {
		b.WriteByte(o.mark)
		b.WriteString(o.text)
		if !strings.HasSuffix(o.text, "\n") {
			b.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// span writes a range of lines as diffs do: an empty one begins at the line before it.
func span(start, n int) string {
	if n > 0 {
		start++
	}
	if n == 1 {
		return fmt.Sprint(start)
	}
	return fmt.Sprintf("%d,%d", start, n)
}

func lines(b []byte) []string {
	list := strings.SplitAfter(string(b), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// compare returns the lines of both sides in order, by a longest common subsequence of what is between the common ends.
func compare(a, b []string) []op {
	var ops []op
	old, new := 0, 0
	add := func(mark byte, text string) {
		ops = append(ops, op{mark: mark, text: text, old: old, new: new})
		if mark != '+' {
			old++
		}
		if mark != '-' {
			new++
		}
	}
	for old < len(a) && new < len(b) && a[old] == b[new] {
		add(' ', a[old])
	}
	tail := 0
	for tail < len(a)-old && tail < len(b)-new && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	midA, midB := a[old:len(a)-tail], b[new:len(b)-tail]
	common := subsequence(midA, midB)
	startA, startB := old, new
	for old-startA < len(midA) || new-startB < len(midB) {
		i, j := old-startA, new-startB
		switch {
		case i < len(midA) && j < len(midB) && midA[i] == midB[j] && (common == nil || common.at(i, j) == common.at(i+1, j+1)+1):
			add(' ', midA[i])
		case i < len(midA) && (common == nil || j == len(midB) || common.at(i+1, j) >= common.at(i, j+1)):
			add('-', midA[i])
		default:
			add('+', midB[j])
		}
	}
	for _, text := range a[len(a)-tail:] {
		add(' ', text)
	}
	return ops
}

// table holds, for each pair of suffixes, the length of their longest common subsequence.
type table struct {
	width int
	cells []uint32
}

func (t *table) at(i, j int) uint32 { return t.cells[i*t.width+j] }

// subsequence returns the table for a and b, nil when it would be too large.
func subsequence(a, b []string) *table {
	t := &table{width: len(b) + 1}
	if (len(a)+1)*t.width > maxDiffCells {
		return nil
	}
	t.cells = make([]uint32, (len(a)+1)*t.width)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				t.cells[i*t.width+j] = t.at(i+1, j+1) + 1
			} else {
				t.cells[i*t.width+j] = max(t.at(i+1, j), t.at(i, j+1))
			}
		}
	}
	return t
}
