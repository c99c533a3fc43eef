package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
)

// finding is what doctor found out about one thing, by doing it.
type finding struct {
	ID      string `json:"id"`
	Status  string `json:"status"` // pass, warn, fail, skip
	Summary string `json:"summary"`
	Fix     string `json:"fix"`
}

// writeFindings prints what a doctor found, and makes a failure the exit status 2.
func writeFindings(cmd *cobra.Command, g *globals, findings []finding) error {
	if g.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(findings); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			writeFinding(cmd.OutOrStdout(), f, wantsColor(os.Stdout) && !g.noColor)
		}
	}
	for _, f := range findings {
		if f.Status == "fail" {
			return exitError{status: 2}
		}
	}
	return nil
}

var statusColors = map[string]string{"pass": "32", "warn": "33", "fail": "31", "skip": "2"}

func writeFinding(w io.Writer, f finding, color bool) {
	status := fmt.Sprintf("%-4s", f.Status)
	if color {
		status = "\x1b[" + statusColors[f.Status] + "m" + status + "\x1b[0m"
	}
	fmt.Fprintf(w, "%s  %-16s %s\n", status, f.ID, event.Escape(f.Summary))
	if f.Fix != "" {
		fmt.Fprintf(w, "      %-16s fix: %s\n", "", event.Escape(f.Fix))
	}
}
