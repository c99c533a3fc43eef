//go:build linux && !client

package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-dev/weir/flow/policy"
)

// runners are the programs that fetch a package and run it: the app is the package, not the runner. The words are what
// comes before the package.
var runners = [][]string{{"npx"}, {"bunx"}, {"uvx"}, {"pnpx"}, {"npm", "exec"}, {"npm", "x"}, {"pnpm", "dlx"}, {"yarn", "dlx"},
	{"bun", "x"}, {"uv", "tool", "run"}, {"pipx", "run"}}

// runnerValueFlags are flags of those programs that take a value.
var runnerValueFlags = []string{"-p", "--package", "-c", "--call", "--from", "--with", "--python", "-w", "--workspace", "--spec", "--index-url", "--directory"}

// appName is the name of the app that a command line starts.
func appName(command []string) string {
	base := filepath.Base(command[0])
	for _, r := range runners {
		if base == r[0] && len(command) > len(r) && slices.Equal(command[1:len(r)], r[1:]) {
			if pkg := packageOf(command[len(r):]); pkg != "" {
				return pkg
			}
		}
	}
	return cleanName(base)
}

// packageOf is the base name of the package among a runner's arguments, without scope and version.
func packageOf(args []string) string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
		case slices.Contains(runnerValueFlags, arg):
			i++
		case strings.HasPrefix(arg, "-"):
		default:
			if i := strings.LastIndexByte(arg, '/'); i >= 0 {
				arg = arg[i+1:]
			}
			if i := strings.IndexAny(arg, "@=<>~!["); i > 0 {
				arg = arg[:i]
			}
			return cleanName(arg)
		}
	}
	return ""
}

// cleanName makes a name that an app may have, "" where nothing of s is left.
func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		if policy.AppName("a" + string(r)) {
			return r
		}
		return '-'
	}, s)
	s = strings.TrimLeft(s, "._-")
	return s[:min(len(s), 64)]
}
