package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/weir-dev/weir/flow/event"
)

// Everything weir says to people goes through a ui, by these rules: to stderr, one line each, "weir: " first, lower case,
// no full stop, what happened before what to do about it. A line that follows as "  fix: ..." is a command or setting that
// mends it. Hostile text is escaped here, whoever wrote the format.
type ui struct {
	w     io.Writer
	color bool
	about string // whom the lines are about, where there are several
}

func newUI(f *os.File) *ui { return &ui{w: f, color: wantsColor(f)} }

// wantsColor reports whether f is a terminal that may be coloured.
func wantsColor(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// sayf writes one line.
func (u *ui) sayf(format string, args ...any) { u.line("", fmt.Sprintf(format, args...)) }

// warnf writes one line that should not be missed.
func (u *ui) warnf(format string, args ...any) { u.line("33", fmt.Sprintf(format, args...)) }

// fail writes an error, with the fix that its chain carries.
func (u *ui) fail(err error) {
	text := err.Error()
	if more := (detailed)(nil); errors.As(err, &more) {
		text = strings.TrimRight(more.Detail(), "\n")
	}
	for i, line := range strings.Split(text, "\n") {
		if i == 0 {
			u.line("31", line)
		} else {
			if strings.HasPrefix(line, "fix: ") {
				line = "  " + line
			}
			fmt.Fprintln(u.w, event.Escape(line))
		}
	}
	var h hinted
	if errors.As(err, &h) {
		u.fix(h.fix)
	}
}

// fix writes what mends the thing just said.
func (u *ui) fix(command string) {
	for _, line := range strings.Split(command, "\n") {
		fmt.Fprintf(u.w, "  fix: %s\n", event.Escape(line))
	}
}

func (u *ui) line(color, text string) {
	if u.about != "" {
		text = u.about + ": " + text
	}
	text = event.Escape(text)
	if u.color && color != "" {
		text = "\x1b[" + color + "m" + text + "\x1b[0m"
	}
	fmt.Fprintf(u.w, "weir: %s\n", text)
}

// detailed is an error that has more to show than one line: a caret under the place in a file, say.
type detailed interface {
	error
	Detail() string
}

// hinted is an error with the command that fixes it.
type hinted struct {
	error
	fix string
}

func (h hinted) Unwrap() error { return h.error }

// hint adds a fix to an error.
func hint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}
