package policy

import (
	"fmt"
	"strings"
)

// Error is one thing that is wrong in a rule or a policy file, told to the person who wrote it.
type Error struct {
	File   string // as given to LoadFile, or "flag" for a rule on the command line
	Line   int    // from 1; the number of the rule for a flag
	Column int    // from 1, in characters
	Msg    string // what is wrong, one line
	Fix    string // what to write instead, one line; "" when there is nothing to say
	Source string // the line of text that the column points into, for a caret; "" if unknown
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

// Unwrap lets errors.Is and errors.As see each of them.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}
