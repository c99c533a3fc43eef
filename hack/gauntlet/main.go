//go:build linux

// Command gauntlet runs the attacks of tests/gauntlet against weir or against another sandbox and prints the matrix.
//
//	go run ./hack/gauntlet [-weir bin/weir] [-tool 'weir,weir tproxy,weir both,none,pasta,bwrap,unshare'] [-only REGEXP] [-docs DIR]
//
// Each attack is first run without any sandbox: one that fails there proves nothing and is BROKEN. The exit status is 0 if
// weir holds every row, or if weir was not asked for. Peers have no rules of ours: what they are not made for counts as HOLE
// all the same, and the matrix is no judgement of how well they do what they are made for.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/weir-dev/weir/internal/playground"
	"github.com/weir-dev/weir/tests/gauntlet"
)

func main() {
	if gauntlet.IsAttack() {
		gauntlet.AttackMain()
	}
	weir := flag.String("weir", "bin/weir", "the weir to attack")
	tools := flag.String("tool", "weir", "what to attack: weir, weir tproxy, weir both, none, pasta, bwrap, unshare; several with commas")
	only := flag.String("only", "", "run the rows whose ID this `REGEXP` matches")
	atATime := flag.Int("parallel", 2, "rows at a time")
	docs := flag.String("docs", "", "write the matrix to docs/gauntlet.md and its sums to README.md below `DIR`")
	list := flag.Bool("list", false, "print the table and the bypasses of others that it tries, and run nothing")
	flag.Parse()
	if *list {
		for _, r := range gauntlet.Rows() {
			fmt.Printf("%s\t%s\t%s\t%s\n", r.ID, r.Vector, r.Right, r.Source)
		}
		for _, b := range gauntlet.Bypasses() {
			fmt.Printf("%s: %s\t%s\n", b.Where, b.What, strings.Join(b.Rows(), " "))
		}
		return
	}
	if !playground.Inside() {
		status, err := playground.Enter()
		exitIf(err)
		os.Exit(status)
	}
	log.SetOutput(io.Discard) // servers complain of clients that were turned away
	pattern, err := regexp.Compile(*only)
	exitIf(err)
	path, err := filepath.Abs(*weir)
	exitIf(err)
	dir, err := os.MkdirTemp("", "weir-gauntlet-")
	exitIf(err)
	columns, err := attack(dir, strings.Split(*tools, ","), path, pattern, *atATime)
	os.RemoveAll(dir)
	exitIf(err)
	green := true
	for _, c := range columns {
		fmt.Print(gauntlet.Text(c))
		green = green && (!strings.HasPrefix(c.Tool, "weir") || c.Green())
	}
	if *docs != "" {
		exitIf(writeDocs(*docs, columns))
	}
	fmt.Print("\n", gauntlet.Summary(columns))
	if !green {
		os.Exit(1)
	}
}

// attack runs the rows against each tool, one tool after the other.
func attack(dir string, tools []string, weir string, only *regexp.Regexp, atATime int) ([]gauntlet.Column, error) {
	var rows []gauntlet.Row
	for _, r := range gauntlet.Rows() {
		if only.MatchString(r.ID) {
			rows = append(rows, r)
		}
	}
	r, err := gauntlet.NewRunner(dir, gauntlet.Tool{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var columns []gauntlet.Column
	for _, name := range tools {
		if r.Tool, err = gauntlet.ToolNamed(name, weir); err != nil {
			return nil, err
		}
		done, shown := 0, term.IsTerminal(2)
		results := r.RunAll(rows, atATime, func(res gauntlet.Result) {
			if done++; shown {
				fmt.Fprintf(os.Stderr, "\r\x1b[K%s %d/%d %s %s", name, done, len(rows), res.Row.ID, res.Outcome)
			}
		})
		if shown {
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		}
		columns = append(columns, gauntlet.Column{Tool: name, Results: results})
	}
	return columns, nil
}

// The lines of README.md between which the sums stand.
const begin, end = "<!-- gauntlet -->\n", "<!-- end of gauntlet -->\n"

// writeDocs writes the page with the whole matrix, and the sums into the README.
func writeDocs(dir string, columns []gauntlet.Column) error {
	page := fmt.Sprintf("# The gauntlet\n\nWritten by `make gauntlet DOCS=.` on %s: %s. What each word means is in `tests/gauntlet`; that a peer\ndoes not hold what it was not made for is no fault of it.\n\n%s%s",
		time.Now().UTC().Format(time.DateOnly), versions(columns), gauntlet.Summary(columns), gauntlet.Markdown(columns))
	if err := os.WriteFile(filepath.Join(dir, "docs", "gauntlet.md"), []byte(page), 0o644); err != nil {
		return err
	}
	path := filepath.Join(dir, "README.md")
	readme, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(readme), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return errors.New("README.md has no place for the sums")
	}
	return os.WriteFile(path, []byte(before+begin+gauntlet.Summary(columns)+end+after), 0o644)
}

// versions says what was attacked, where, and as whom.
func versions(columns []gauntlet.Column) string {
	kernel, _ := exec.Command("uname", "-sr").Output()
	list := []string{strings.TrimSpace(string(kernel)), fmt.Sprintf("uid %d", os.Getuid())}
	for _, c := range columns {
		if c.Tool == "none" || strings.HasPrefix(c.Tool, "weir") {
			continue
		}
		out, _ := exec.Command("dpkg-query", "--show", "--showformat=${Package} ${Version}", map[string]string{"pasta": "passt", "bwrap": "bubblewrap", "unshare": "util-linux"}[c.Tool]).Output()
		list = append(list, strings.TrimSpace(string(out)))
	}
	return strings.Join(list, ", ")
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gauntlet:", err)
		os.Exit(1)
	}
}
