//go:build linux

package gauntlet

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// Column is one tool's results, in the order of the rows.
type Column struct {
	Tool    string
	Results []Result
}

// Text is the matrix for a terminal: a line per row, the reasons of what is not held below, the sums last.
func Text(c Column) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "ROW\tATTACK\tA CORRECT SANDBOX\t%s\n", strings.ToUpper(c.Tool))
	for _, r := range c.Results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Row.ID, r.Row.Vector, r.Row.Right, r.Outcome)
	}
	w.Flush()
	for _, r := range c.Results {
		switch r.Outcome {
		case Held:
		case Lacks:
			fmt.Fprintf(&b, "\n%s was not tried, this run lacks: %s\n", r.Row.ID, r.Why)
		default:
			fmt.Fprintf(&b, "\n%s %s: %s\n", r.Outcome, r.Row.ID, r.Why)
		}
	}
	fmt.Fprintf(&b, "\n%s: %s\n", c.Tool, c.sum())
	return b.String()
}

// sum says what became of all rows.
func (c Column) sum() string {
	n := c.count("")
	text := fmt.Sprintf("%d held", n[Held])
	for _, o := range []Outcome{Hole, Broken, Lacks} {
		if n[o] > 0 {
			text += fmt.Sprintf(", %d %s", n[o], o)
		}
	}
	return text
}

// Green reports whether every row is held, or lacks something of the host.
func (c Column) Green() bool {
	return !slices.ContainsFunc(c.Results, func(r Result) bool { return r.Outcome != Held && r.Outcome != Lacks })
}

// Summary is a Markdown table of groups against tools: how many rows each holds of those that were tried, and how many
// were not, for want of something. Groups of which no row was picked are left out.
func Summary(columns []Column) string {
	var b strings.Builder
	b.WriteString("| group | attacks |")
	line := "|---|---|"
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.Tool)
		line += "---|"
	}
	fmt.Fprintf(&b, "\n%s\n", line)
	for _, g := range Groups() {
		row, picked := fmt.Sprintf("| %s | %s |", g.Name, g.About), false
		for _, c := range columns {
			n := c.count(g.Name)
			tried := n[Held] + n[Hole] + n[Broken]
			picked = picked || tried+n[Lacks] > 0
			row += fmt.Sprintf(" %d/%d", n[Held], tried)
			if n[Lacks] > 0 {
				row += fmt.Sprintf(", %d not tried", n[Lacks])
			}
			row += " |"
		}
		if picked {
			b.WriteString(row + "\n")
		}
	}
	return b.String()
}

// count counts the outcomes of a group, of all rows for "".
func (c Column) count(group string) map[Outcome]int {
	n := map[Outcome]int{}
	for _, r := range c.Results {
		if group == "" || r.Row.Group() == group {
			n[r.Outcome]++
		}
	}
	return n
}

// Markdown is the whole matrix: a table per group, a column per tool.
func Markdown(columns []Column) string {
	var b strings.Builder
	for _, g := range Groups() {
		fmt.Fprintf(&b, "\n## %s: %s\n\n| attack | a correct sandbox |", g.Name, g.About)
		line := "|---|---|"
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", c.Tool)
			line += "---|"
		}
		fmt.Fprintf(&b, "\n%s\n", line)
		for i, r := range columns[0].Results {
			if r.Row.Group() != g.Name {
				continue
			}
			_, name, _ := strings.Cut(r.Row.ID, "/")
			fmt.Fprintf(&b, "| **%s**: %s | %s |", name, cell(r.Row.Vector), cell(r.Row.Right))
			for _, c := range columns {
				fmt.Fprintf(&b, " %s |", c.Results[i].Outcome)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// cell is text that does not end its cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
