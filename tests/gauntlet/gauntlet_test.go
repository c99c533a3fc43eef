//go:build linux

package gauntlet

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/internal/playground"
)

// binDir holds the weir under test.
const binDirVariable = "WEIR_GAUNTLET_BIN"

var runner *Runner

func TestMain(m *testing.M) {
	switch {
	case IsAttack():
		AttackMain()
	case !playground.Inside():
		os.Exit(outside())
	}
	log.SetOutput(io.Discard) // servers complain of clients that weir turned away
	var err error
	if runner, err = NewRunner(os.Getenv(binDirVariable), Weir(filepath.Join(os.Getenv(binDirVariable), "weir"), Doors()[0])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	runner.Close()
	os.Exit(code)
}

// outside builds weir and enters the playground.
func outside() int {
	dir, err := os.MkdirTemp("", "weir-gauntlet-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	if err := Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv(binDirVariable, dir)
	status, err := playground.Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// TestGauntlet: every row holds.
func TestGauntlet(t *testing.T) {
	runRows(t, runner, func(Row) bool { return true })
}

// TestGauntletThroughDoors: the rows that have to do with the network hold through the other doors as well. Those of them that
// only make a name or a log of it, which no door has a part in, are left to make gauntlet, which runs all through each.
func TestGauntletThroughDoors(t *testing.T) {
	for _, door := range Doors()[1:] {
		through := runner.with(Weir(runner.Tool.path, door), nil)
		t.Run(door, func(t *testing.T) {
			runRows(t, through, func(r Row) bool {
				switch r.Group() {
				case "door", "packets", "reach":
					return true
				case "dns", "exhaustion":
					return door == "tproxy"
				}
				return false
			})
		})
	}
}

// runRows runs the rows that are wanted.
func runRows(t *testing.T, r *Runner, wanted func(Row) bool) {
	for _, g := range Groups() {
		t.Run(g.Name, func(t *testing.T) {
			for _, row := range g.rows() {
				if !wanted(row) {
					continue
				}
				t.Run(strings.TrimPrefix(row.ID, g.Name+"/"), func(t *testing.T) {
					if !row.Alone {
						t.Parallel()
					}
					switch res := r.Run(row); res.Outcome {
					case Held:
					case Lacks:
						t.Skip(res.Why)
					default:
						t.Errorf("%s: %s\nattack: %s\na correct sandbox: %s", res.Outcome, res.Why, row.Vector, row.Right)
					}
				})
			}
		})
	}
}

// TestBreaks: without the stones of a group, the rows that test them are red. All of a group are out at once but
// those of one file, which might hide one another, since every build takes its time. BREAK=REGEXP takes those out whose
// source file matches, one by one.
func TestBreaks(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, stones := range chosenBreaks(t) {
		t.Run(stones[0].Group, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "weir")
			if err := BuildBroken(root, path, stones); err != nil {
				t.Fatal(err)
			}
			broken := runner.with(Weir(path, Doors()[0]), stones)
			for _, b := range stones {
				for _, id := range b.Rows {
					row, ok := find(id)
					if !ok {
						t.Fatalf("a break of %s names row %s, which is not there", b.File, id)
					}
					if res := broken.Run(row); res.Outcome != Hole && res.Outcome != Lacks {
						t.Errorf("%s is %s without %q of %s: it proves nothing: %s", id, res.Outcome, b.Old, b.File, res.Why)
					}
				}
			}
		})
	}
}

// chosenBreaks are the sets of breaks that are made together.
func chosenBreaks(t *testing.T) (sets [][]Break) {
	t.Helper()
	if one := os.Getenv("BREAK"); one != "" {
		pattern, err := regexp.Compile(one)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range Breaks() {
			if pattern.MatchString(b.File) {
				sets = append(sets, []Break{b})
			}
		}
		return sets
	}
	for _, b := range Breaks() {
		i := slices.IndexFunc(sets, func(set []Break) bool {
			return set[0].Group == b.Group && !slices.ContainsFunc(set, func(other Break) bool { return other.File == b.File })
		})
		if i < 0 {
			sets = append(sets, []Break{b})
		} else {
			sets[i] = append(sets[i], b)
		}
	}
	return sets
}

// TestUnlike: what differs through a door says why, is about a row that is there, and differs.
func TestUnlike(t *testing.T) {
	for door, table := range map[string]map[string]unlike{"tproxy": throughTProxy, "both": throughBoth} {
		for id, u := range table {
			row, ok := find(id)
			if !ok || u.why == "" {
				t.Errorf("%s through %s: there %v, because %q", id, door, ok, u.why)
			}
			if !u.lawful && !row.frames && slices.Equal(u.record, row.Record) {
				t.Errorf("%s is the same through %s", id, door)
			}
		}
	}
}

// TestTable: IDs are unique, groups exist, everything that has to be said is said, each group has a break.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	var names []string
	for _, g := range Groups() {
		names = append(names, g.Name)
		if len(g.rows()) > 1 && !slices.ContainsFunc(Breaks(), func(b Break) bool { return b.Group == g.Name }) {
			t.Errorf("group %s has no break", g.Name)
		}
	}
	for _, r := range Rows() {
		switch {
		case seen[r.ID]:
			t.Errorf("%s is there twice", r.ID)
		case !slices.Contains(names, r.Group()):
			t.Errorf("%s belongs to no group", r.ID)
		case r.Vector == "" || r.Right == "" || r.Attack == nil:
			t.Errorf("%s does not say what it does", r.ID)
		}
		seen[r.ID] = true
	}
	if len(seen) < wantedRows {
		t.Errorf("%d rows; the table promises %d", len(seen), wantedRows)
	}
}

// TestBypasses: what was reported of others is tried here, or it is said why not; and no row tries what is not listed.
func TestBypasses(t *testing.T) {
	listed := map[string]bool{}
	list := func(where string) {
		if listed[where] {
			t.Errorf("%q is listed twice", where)
		}
		listed[where] = true
	}
	var known []string
	for _, b := range Bypasses() {
		list(b.Where)
		known = append(known, b.Where)
		if len(b.Rows()) == 0 {
			t.Errorf("no row has %q (%s) as its source", b.Where, b.What)
		}
	}
	for _, a := range Absent() {
		for _, where := range a.Where {
			list(where)
			if rows := (Bypass{Where: where}).Rows(); len(rows) > 0 {
				t.Errorf("%q is said to have no row (%s) and has %v", where, a.Why, rows)
			}
		}
	}
	report := regexp.MustCompile(`[\w/.-]+( CoreLibs)?( PR)? #\d+|CVE-\d+-\d+|GHSA(-[0-9a-z]{4}){3}`)
	for _, r := range Rows() {
		for _, found := range report.FindAllString(r.Source, -1) {
			if !slices.ContainsFunc(known, func(where string) bool { return strings.HasSuffix(where, found) }) {
				t.Errorf("%s has %q as its source, which Bypasses does not list", r.ID, found)
			}
		}
	}
}

const wantedRows = 100
