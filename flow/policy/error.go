package policy

import (
	"fmt"
	"strings"
	"unicode"
)

// Error is one thing that is wrong in a rule or a policy file, told to the person who wrote it.
type Error struct {
	File   string `json:"file"`    // as given to LoadFile, or FlagFile for a rule on the command line
	Line   int    `json:"line"`    // from 1; the number of the rule for a flag
	Column int    `json:"column"`  // from 1, in characters
	Msg    string `json:"message"` // what is wrong, one line
	Fix    string `json:"fix"`     // what to write instead, one line; "" when there is nothing to say
	Source string `json:"-"`       // the line of text that the column points into, for a caret; "" if unknown
}

// Error returns FILE:LINE:COLUMN: what is wrong (what to do).
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	}
	b.WriteString(e.Msg)
	if e.Fix != "" {
		b.WriteString(" (" + e.Fix + ")")
	}
	return b.String()
}

// maxSource is how much of a line is shown above a caret, in characters.
const maxSource = 160

// Detail returns the error as a terminal shows it: where and what, the line with a caret under the character, the fix.
// Each part ends in a newline.
func (e *Error) Detail() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	}
	b.WriteString(e.Msg + "\n")
	if line := []rune(e.Source); len(line) > 0 && e.Column >= 1 && e.Column-1 <= len(line) && e.Column <= maxSource {
		indent := strings.Map(func(r rune) rune {
			if r == '\t' {
				return r
			}
			return ' '
		}, string(line[:e.Column-1]))
		shown := strings.Map(printable, string(line[:min(len(line), maxSource)]))
		fmt.Fprintf(&b, "  %s\n  %s^\n", shown, indent)
	}
	if e.Fix != "" {
		b.WriteString("fix: " + e.Fix + "\n")
	}
	return b.String()
}

// printable keeps terminals safe from what a line may hold.
func printable(r rune) rune {
	if r == '\t' || unicode.IsPrint(r) {
		return r
	}
	return '\uFFFD'
}

// Errors are all that was found wrong in one file, in the order of the text. errors.As finds the first *Error.
type Errors []*Error

// Error returns one line per error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Detail returns the details of each.
func (e Errors) Detail() string {
	var b strings.Builder
	for i := range e {
		b.WriteString(e[i].Detail())
	}
	return b.String()
}

// Unwrap lets errors.Is and errors.As see each of them.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}
