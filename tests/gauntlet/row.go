//go:build linux

package gauntlet

import (
	"context"
	"time"
)

// Row is one attack.
type Row struct {
	// ID is GROUP/NAME.
	ID string
	// Vector is what the attacker does, Right what a correct sandbox does, each in a few words.
	Vector, Right string
	// Source is where this was reported of a peer, or which document has it; empty if it is our own thought.
	Source string

	// Rules are the flags of weir run; nil is StandardRules. In them, in Lifted and in Record {NAME} stands for that
	// argument of the stage, {token} for its token.
	Rules []string
	// Lifted are rules under which weir lets the very same attack pass: a control that shows that the rule, and not some
	// accident inside, stopped it. nil: there is no such rule.
	Lifted []string

	// Privileged lets the control keep the playground's capabilities over its namespaces: the attack is one that a program
	// could only try if they leaked.
	Privileged bool
	// Leaked is for attacks that need a capability. They run in weir twice: in the weir under test, which has to refuse
	// them, and in one whose step that gives capabilities up was taken out (see [Runner.leaky]), to test what lies behind
	// that wall. Record and Check are about the second. The control keeps the playground's capabilities, as with Privileged.
	Leaked bool
	// Alone keeps other rows from running at the same time.
	Alone bool
	// frames says that the attacker makes frames of its own.
	frames bool
	// Lacks says what the host lacks for this row, "" for nothing. nil: nothing.
	Lacks func() string

	// Prepare sets the stage, before each of the row's runs. nil: nothing to do.
	Prepare func(*Stage) error
	// During does something outside while the attack runs, and ends when ctx does: the attack is over then. nil: nothing.
	During func(ctx context.Context, s *Stage)
	// Attack runs inside. nil says that the attacker reached what it wanted, an error why it did not.
	Attack func(*Attacker) error
	// Harm says, from outside and after the attack, whether it reached its aim. nil: the attacker's word is taken.
	Harm func(*Stage) bool

	// Settle is how long Harm may take to show when there is any; 0 is settle.
	Settle time.Duration

	// Refused is a part of what weir says when it does not even start such a thing (status 125). Empty: it starts.
	Refused string
	// Record are events that weir's log must have after the attack, each "KIND FIELD=VALUE ...", * for any value.
	Record []string
	// Check looks at what is left after the attack in weir. nil: nothing more to look at.
	Check func(*Stage) error
}

// Group is the part of ID before the slash.
func (r *Row) Group() string {
	for i := range r.ID {
		if r.ID[i] == '/' {
			return r.ID[:i]
		}
	}
	return r.ID
}

// StandardRules are what a row without Rules runs under.
var StandardRules = []string{"--mode", "enforce", "--allow", "shop.example"}
