//go:build linux

package gauntlet

import (
	"strings"
	"testing"
)

// TestSums: what was not tried is neither held nor a hole, and a group of which nothing was picked is no line.
func TestSums(t *testing.T) {
	c := Column{Tool: "weir", Results: []Result{
		{Row: Row{ID: "files/a"}, Outcome: Held},
		{Row: Row{ID: "files/b"}, Outcome: Lacks, Why: "a host"},
		{Row: Row{ID: "files/c"}, Outcome: Hole, Why: "it was read"},
		{Row: Row{ID: "dns/a"}, Outcome: Held},
	}}
	lines := strings.Split(strings.TrimSpace(Summary([]Column{c})), "\n")
	if len(lines) != 4 || !strings.HasSuffix(lines[2], "| 1/2, 1 not tried |") || !strings.HasSuffix(lines[3], "| 1/1 |") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	text := Text(c)
	for _, want := range []string{"files/b was not tried, this run lacks: a host\n", "hole files/c: it was read\n", "weir: 2 held, 1 hole, 1 lacks\n"} {
		if !strings.Contains(strings.ToLower(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
