//go:build linux && !client

package main

import (
	"io"
	"testing"

	"github.com/weir-dev/weir/flow/event"
)

// TestShownRows: a program that scans a network does not bury the terminal, and whoever asks sees all.
func TestShownRows(t *testing.T) {
	for _, c := range []struct {
		name              string
		summary           bool
		rows, shown, more int
	}{
		{"few", false, 100, 100, 0},
		{"many", false, 4097, 100, 3997},
		{"many, asked for", true, 4097, 4097, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &launch{plan: &plan{runFlags: runFlags{summary: c.summary}}}
			if shown, more := l.shownRows(make([]event.Row, c.rows)); len(shown) != c.shown || more != c.more {
				t.Errorf("%d shown and %d more, want %d and %d", len(shown), more, c.shown, c.more)
			}
		})
	}
}

func TestConclude(t *testing.T) {
	denied, clean := &dataPathReport{Denials: 1}, &dataPathReport{}
	for _, c := range []struct {
		name    string
		failOn  string
		status  int
		stopped bool
		report  *dataPathReport
		want    int
	}{
		{"nothing asked", "", 0, false, denied, 0},
		{"nothing happened", "denied", 0, false, clean, 0},
		{"it happened", "denied", 0, false, denied, 86},
		{"it happened and CMD failed", "denied", 3, false, denied, 3},
		{"it happened and somebody stopped CMD", "denied", 143, true, denied, 86},
		{"it happened and CMD was killed otherwise", "denied", 137, false, denied, 137},
		{"somebody stopped CMD", "denied", 143, true, clean, 143},
		{"nobody knows", "denied", 0, false, nil, 86},
		{"nobody knows and CMD failed", "denied", 3, false, nil, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &launch{plan: &plan{runFlags: runFlags{failOn: c.failOn, quiet: true}}, ui: &ui{w: io.Discard}, stopped: c.stopped}
			if got := exitStatus(l.conclude(c.status, c.report)); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
		})
	}
}
