//go:build linux

// Command gauntlet runs the attacks of tests/gauntlet against weir or against another sandbox and prints the matrix.
//
//	go run ./hack/gauntlet [-weir bin/weir] [-tool weir,none,pasta,bwrap,unshare] [-only REGEXP] [-markdown FILE]
//
// Each attack is first run without any sandbox: one that fails there proves nothing and is BROKEN. The exit status is 0 if
// weir holds every row, or if weir was not asked for. Peers have no rules of ours: what they are not made for counts as HOLE
// all the same, and the matrix is no judgement of how well they do what they are made for.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/term"

	"github.com/weir-dev/weir/internal/playground"
	"github.com/weir-dev/weir/tests/gauntlet"
)

func main() {
	if gauntlet.IsAttack() {
		gauntlet.AttackMain()
	}
	weir := flag.String("weir", "bin/weir", "the weir to attack")
	tools := flag.String("tool", "weir", "what to attack: weir, none, pasta, bwrap, unshare; several with commas")
	only := flag.String("only", "", "run the rows whose ID this `REGEXP` matches")
	atATime := flag.Int("parallel", 2, "rows at a time")
	markdown := flag.String("markdown", "", "also write the matrix to `FILE`")
	list := flag.Bool("list", false, "print the table and run nothing")
	flag.Parse()
	if *list {
		for _, r := range gauntlet.Rows() {
			fmt.Printf("%s\t%s\t%s\t%s\n", r.ID, r.Vector, r.Right, r.Source)
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
		green = green && (c.Tool != "weir" || c.Green())
	}
	if *markdown != "" {
		exitIf(os.WriteFile(*markdown, []byte(gauntlet.Markdown(columns)), 0o644))
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

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gauntlet:", err)
		os.Exit(1)
	}
}
