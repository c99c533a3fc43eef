package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
)

func newPolicySuggestCommand() *cobra.Command {
	app := ""
	cmd := &cobra.Command{
		Use:   "suggest EVENTS",
		Short: "Write the narrowest policy under which what the events show passes again",
		Long: `Writes the narrowest policy under which what the events show passes again, and nothing that they do not show.
EVENTS is an event log (JSON Lines), or - for stdin. What was denied is there too, commented out: review the file.`,
		Example: `  weir policy suggest ~/.local/state/weir/events.jsonl > weir.yaml
  weir policy suggest --app github events.jsonl
  grep 7f3a9c events.jsonl | weir policy suggest -`,
		Args: wants("EVENTS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			observed, err := readEvents(cmd, args[0], app)
			if err != nil {
				return err
			}
			if app != "" && len(observed) == 0 {
				return fmt.Errorf("no events of app %q in %s", app, args[0])
			}
			s := policy.Suggest(observed)
			if wantsJSON(cmd) {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			_, err = cmd.OutOrStdout().Write(s.YAML())
			return err
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only what `APP` did")
	return cmd
}

func newPolicyTestCommand() *cobra.Command {
	events, app := "", ""
	cmd := &cobra.Command{
		Use:   "test --events EVENTS FILE",
		Short: "Judge recorded events again under a policy and show what would change",
		Long: `Judges recorded flows and questions again under a policy file and shows what would change. Events of apps that the file
does not have are left out, and said to be. Exit status 1 when something that passed would be denied, 0 otherwise.`,
		Example: `  weir policy test --events ~/.local/state/weir/events.jsonl weir.yaml
  weir policy test --app github --events events.jsonl weir.yaml`,
		Args: wants("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if events == "" {
				return usageError{hint(errors.New("--events is missing"), "weir policy test --events EVENTS %s", args[0])}
			}
			return testPolicy(cmd, events, args[0], app)
		},
	}
	cmd.Flags().StringVar(&events, "events", "", "event log (`EVENTS`, JSON Lines), or - for stdin")
	cmd.Flags().StringVar(&app, "app", "", "only what `APP` did")
	return cmd
}

// change is an event that a policy judges in another way than it was judged.
type change struct {
	App     string `json:"app"`
	What    string `json:"what"`
	Was     string `json:"was"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule"`
	Count   int    `json:"count"`
}

func testPolicy(cmd *cobra.Command, events, path, app string) error {
	observed, err := readEvents(cmd, events, app)
	if err != nil {
		return err
	}
	file, err := policy.LoadFile(path)
	if err != nil {
		return reported(cmd, err)
	}
	policies, index, unknown := map[string]*policy.Policy{}, map[change]int{}, map[string]int{}
	changes, denied := []change{}, false
	for _, o := range observed {
		if !file.Knows(o.App) {
			unknown[o.App]++
			continue
		}
		p := policies[o.App]
		if p == nil {
			if p, err = policy.New(policy.Config{File: file, App: o.App}); err != nil {
				return reported(cmd, err)
			}
			policies[o.App] = p
		}
		v, reason, rule := p.DecideObserved(o)
		passed := o.Verdict != policy.Deny.String()
		if passed == (v != policy.Deny) {
			continue
		}
		denied = denied || passed
		c := change{App: o.App, What: observedText(o), Was: o.Verdict, Verdict: v.String(), Reason: reason, Rule: rule}
		at, seen := index[c]
		if !seen {
			at = len(changes)
			index[c], changes = at, append(changes, c)
		}
		changes[at].Count++
	}
	left := writeLeftOut(cmd, path, unknown)
	if err := writeChanges(cmd, len(observed)-left, changes); err != nil {
		return err
	}
	if denied {
		return exitError{status: 1}
	}
	return nil
}

// writeLeftOut says on stderr which apps the file does not have, and returns how many events were theirs.
func writeLeftOut(cmd *cobra.Command, path string, unknown map[string]int) (events int) {
	for _, n := range unknown {
		events += n
	}
	if events > 0 {
		apps := slices.Sorted(maps.Keys(unknown))
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: left out %s of apps that %s does not have: %s\n", count(events, "event"), event.Escape(path), event.Escape(strings.Join(apps, ", ")))
	}
	return events
}

func writeChanges(cmd *cobra.Command, events int, changes []change) error {
	out := cmd.OutOrStdout()
	if wantsJSON(cmd) {
		return writeJSON(out, map[string]any{"events": events, "changes": changes})
	}
	for _, c := range changes {
		fmt.Fprintf(out, "%s: %s: was %s, would be %s (%s, %s), %dx\n", event.Escape(c.App), event.Escape(c.What), event.Escape(c.Was), c.Verdict, c.Reason, event.Escape(c.Rule), c.Count)
	}
	_, err := fmt.Fprintf(out, "%s, %s\n", count(events, "event"), count(len(changes), "change"))
	return err
}

func observedText(o policy.Observation) string {
	if o.Question {
		return o.Names[0] + "/dns"
	}
	dest := o.Addr.String()
	if len(o.Names) > 0 {
		dest = o.Names[0]
	}
	if o.Claim != "" {
		dest = o.Claim
	}
	if o.Proto == policy.ICMP {
		return dest + "/icmp"
	}
	return fmt.Sprintf("%s:%d/%s", dest, o.Port, o.Proto)
}

// readEvents reads an event log. Lines that are no events are skipped and counted on stderr: a log that is being written
// ends in the middle of one.
func readEvents(cmd *cobra.Command, path, app string) ([]policy.Observation, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open events: %w", err)
		}
		defer f.Close()
		in = f
	}
	var observed []policy.Observation
	lines, broken := 0, 0
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 0, policy.MaxEvent), policy.MaxEvent+1)
	for scan.Scan() {
		if len(strings.TrimSpace(scan.Text())) == 0 {
			continue
		}
		lines++
		o, ok, err := policy.Observe(scan.Bytes())
		if err != nil {
			broken++
		}
		if ok && (app == "" || o.App == app) {
			observed = append(observed, o)
		}
	}
	switch err := scan.Err(); {
	case err != nil:
		return nil, fmt.Errorf("read events: %w", err)
	case broken > 0 && broken == lines:
		return nil, fmt.Errorf("read events: none of the %d lines is an event", lines)
	case broken > 0:
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: %d of %d lines are no events and were skipped\n", broken, lines)
	}
	return observed, nil
}
