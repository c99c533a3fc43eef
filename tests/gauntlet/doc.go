//go:build linux

// Package gauntlet is a table of attacks on a sandbox, and what runs them.
//
// A row ([Row]) names a vector, says what a correct sandbox does about it, and carries the attack itself: a small function
// that is run inside, by this same binary executed again. Whether the attack reached its aim is seen from outside wherever
// it can be: servers of the playground that heard the row's token, a file of the host that changed. Each row is run
//
//   - without any sandbox: there the attack has to succeed, or the row is broken;
//   - where the row says so, in weir under rules that lift the denial: there it has to succeed as well;
//   - in the sandbox: there it must not, and weir's event log must say what the row wants it to say.
//
// So a row that cannot hurt anybody is red, and cannot pass for a wall. [Breaks] are the opposite check: each takes one
// stone out of weir's own source (by go build -overlay) and names the rows that have to turn red.
//
// Attacks that take a capability ([Row.Leaked]) run against a second weir too, built without the step that gives capabilities
// up: what stands behind a wall is not tested by a wall that holds.
//
// row.go has the table's words, table.go the groups, one file per group the rows, attacker.go what attacks have in common,
// world.go and stage.go what lies outside, runner.go the order of events, tools.go the sandboxes, raw.go frames made by hand, wire.go who sees them outside, matrix.go the output,
// bypasses.go what was reported of others and is tried here, bypasses_absent.go what is not, and why.
package gauntlet
