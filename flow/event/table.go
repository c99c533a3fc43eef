package event

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// TableOptions say how a table looks.
type TableOptions struct {
	// Color allows ANSI colours, which only the verdict has.
	Color bool

	// Width is the terminal's width in columns; hosts are shortened to fit. 0 is no limit.
	Width int
}

const (
	// minHostColumn is how far the host column shrinks on a narrow terminal, columnGap what is between two columns.
	minHostColumn = 16
	columnGap     = 2
)

var tableHead = [...]string{"HOST", "PORT", "PROTO", "ROUTE", "CONNS", "SENT", "RECEIVED", "VERDICT"}

type tableLine [len(tableHead)]string

// WriteTable writes the rows as an aligned table for people, one line each below a head, with every string escaped. No
// rows, no output.
func WriteTable(w io.Writer, rows []Row, opts TableOptions) error {
	if len(rows) == 0 {
		return nil
	}
	lines := []tableLine{tableHead}
	for i := range rows {
		lines = append(lines, cells(&rows[i]))
	}
	widths := measure(lines, opts.Width)
	var b strings.Builder
	for i, line := range lines {
		color := ""
		if opts.Color && i > 0 {
			color = verdictColor(rows[i-1].Verdict)
		}
		writeLine(&b, line, widths, color)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

func cells(r *Row) tableLine {
	verdict := Escape(r.Verdict)
	if r.Reason != "" {
		verdict += " (" + Escape(r.Reason) + ")"
	}
	route := Escape(r.Route)
	if r.Verdict == "deny" { // a question keeps the route it would have gone
		route = "deny"
	}
	return tableLine{Escape(r.Host), portCell(r.Port), Escape(r.Protocol), route, strconv.FormatUint(r.Connections, 10),
		octets(r.Sent), octets(r.Received), verdict}
}

func portCell(p uint16) string {
	if p == 0 {
		return "-"
	}
	return strconv.Itoa(int(p))
}

// measure returns the width of each column but the last; the first gives way when the whole is wider than limit.
func measure(lines []tableLine, limit int) [len(tableHead)]int {
	var widths [len(tableHead)]int
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	total := -columnGap
	for _, n := range widths {
		total += n + columnGap
	}
	if limit > 0 && total > limit {
		widths[0] = max(min(widths[0], minHostColumn), widths[0]-(total-limit))
	}
	return widths
}

func writeLine(b *strings.Builder, line tableLine, widths [len(tableHead)]int, color string) {
	last := len(line) - 1
	for i, cell := range line[:last] {
		cell = shorten(cell, widths[i])
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if rightAligned(i) {
			cell = pad + cell
		} else {
			cell += pad
		}
		b.WriteString(cell)
		b.WriteString(strings.Repeat(" ", columnGap))
	}
	if color == "" {
		b.WriteString(line[last])
	} else {
		b.WriteString(color + line[last] + "\x1b[0m")
	}
	b.WriteByte('\n')
}

// rightAligned reports whether column i holds numbers.
func rightAligned(i int) bool {
	switch tableHead[i] {
	case "PORT", "CONNS", "SENT", "RECEIVED":
		return true
	}
	return false
}

// shorten cuts the front of a cell, because the end of a host name is what tells whose it is.
func shorten(s string, width int) string {
	n := utf8.RuneCountInString(s)
	if n <= width {
		return s
	}
	runes := []rune(s)
	return "..." + string(runes[n-width+3:])
}

func verdictColor(verdict string) string {
	switch verdict {
	case "deny":
		return "\x1b[31m"
	case "would-deny":
		return "\x1b[33m"
	case "allow":
		return "\x1b[32m"
	}
	return ""
}

// octets writes a number of octets with a binary prefix: 999 B, 1.2 KiB, 31 MiB.
func octets(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, prefix := float64(n)/1024, 0
	for v >= 1023.5 && prefix < 5 {
		v /= 1024
		prefix++
	}
	precision := 0
	if v < 9.95 {
		precision = 1
	}
	return strconv.FormatFloat(v, 'f', precision, 64) + " " + "KMGTPE"[prefix:prefix+1] + "iB"
}
