package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
)

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, explain, suggest and test policies",
		Long: `A policy says which names and addresses each app may reach: docs/policy.md has the language.

The way to a policy is short: let the program do its work once, review what it did, enforce that.`,
		Example: `  weir run --learn weir.yaml --name github -- npx -y @modelcontextprotocol/server-github
  weir policy check weir.yaml
  weir policy explain weir.yaml github api.github.com
  weir run -f weir.yaml --name github -- npx -y @modelcontextprotocol/server-github`,
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheckCommand(), newPolicyExplainCommand(), newPolicySuggestCommand(), newPolicyTestCommand())
	return cmd
}

func newPolicyCheckCommand() *cobra.Command {
	schema := false
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong in a policy file, where, and what to write instead",
		Long:  "Says what is wrong in a policy file, where, and what to write instead. Exit status 0 when nothing is, 1 otherwise; warnings do not count.",
		Example: `  weir policy check weir.yaml
  weir policy check --json weir.yaml
  weir policy check --schema > weir.schema.json     for editors`,
		Args: func(cmd *cobra.Command, args []string) error {
			if schema {
				return wants()(cmd, args)
			}
			return wants("FILE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if schema {
				_, err := cmd.OutOrStdout().Write(policy.Schema())
				return err
			}
			return checkPolicy(cmd, args[0])
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of the file instead")
	return cmd
}

// checked is the result of policy check.
type checked struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Apps     []checkedApp    `json:"apps"`
	Errors   []*policy.Error `json:"errors"`
	Warnings []*policy.Error `json:"warnings"`
}

type checkedApp struct {
	Name   string `json:"name"`
	Mode   string `json:"mode"`
	Rules  int    `json:"rules"`
	Digest string `json:"digest"`
}

func checkPolicy(cmd *cobra.Command, path string) error {
	result := checked{File: path, Apps: []checkedApp{}, Errors: []*policy.Error{}, Warnings: []*policy.Error{}}
	file, err := policy.LoadFile(path)
	if err == nil {
		result.Warnings = append(result.Warnings, file.Warnings...)
		result.Apps, err = compileApps(file)
	}
	if result.Errors = append(result.Errors, policyErrors(err)...); err != nil && len(result.Errors) == 0 {
		return err // the file could not be read
	}
	result.OK = len(result.Errors) == 0
	if wantsJSON(cmd) {
		if err := writeJSON(cmd.OutOrStdout(), result); err != nil {
			return err
		}
	} else {
		for _, w := range result.Warnings {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d:%d: warning: %s\n", event.Escape(w.File), w.Line, w.Column, event.Escape(w.Msg))
			if w.Fix != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "fix: %s\n", event.Escape(w.Fix))
			}
		}
		writeDetails(cmd.ErrOrStderr(), result.Errors)
		writeChecked(cmd.OutOrStdout(), result)
	}
	if !result.OK {
		return exitError{status: 1}
	}
	return nil
}

// compileApps compiles the policy of every app, which finds rules that do not go together.
func compileApps(f *policy.File) ([]checkedApp, error) {
	apps := []checkedApp{}
	var errs policy.Errors
	for _, a := range f.Apps {
		p, err := policy.New(policy.Config{File: f, App: a.Name})
		if err != nil {
			errs = append(errs, policyErrors(err)...)
			continue
		}
		n := len(f.Allow) + len(f.Deny) + len(a.Allow) + len(a.Deny) + len(a.InstallAllow)
		apps = append(apps, checkedApp{Name: a.Name, Mode: p.Mode(), Rules: n, Digest: p.Digest()})
	}
	if _, err := policy.New(policy.Config{File: f}); err != nil && len(f.Apps) == 0 {
		errs = append(errs, policyErrors(err)...)
	}
	if len(errs) > 0 {
		return apps, errs
	}
	return apps, nil
}

func writeChecked(w io.Writer, result checked) {
	if !result.OK {
		return
	}
	fmt.Fprintf(w, "%s: ok\n", event.Escape(result.File))
	for _, a := range result.Apps {
		fmt.Fprintf(w, "  %s: %s, %s\n", a.Name, a.Mode, count(a.Rules, "rule"))
	}
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func newPolicyExplainCommand() *cobra.Command {
	installed := false
	cmd := &cobra.Command{
		Use:   "explain FILE APP DEST",
		Short: "Say what a policy does with a destination, and which rule says so",
		Long: `Says what a policy does with a destination, and which rule says so.

DEST is NAME, NAME:PORT or ADDRESS:PORT, and may end in /tcp, /udp or /icmp. A name is explained as a program uses it:
it asks weir's DNS, gets a public address, connects there and says the name again in its first bytes.
The exit status is 0 whatever the verdict is.`,
		Example: `  weir policy explain weir.yaml github api.github.com
  weir policy explain weir.yaml postgres db.corp.example:5432
  weir policy explain --json weir.yaml github 169.254.169.254:80`,
		Args: wants("FILE", "APP", "DEST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if installed {
				p.InstallDone()
			}
			return explainPolicy(cmd, p, args[2])
		},
	}
	cmd.Flags().BoolVar(&installed, "installed", false, "as it is after the server has answered initialize, without the install rules")
	return cmd
}

func explainPolicy(cmd *cobra.Command, p *policy.Policy, dest string) error {
	x, err := p.Explain(dest)
	var bad *policy.ErrDest
	if errors.As(err, &bad) {
		return usageError{hint(errors.New(bad.Msg), "%s", bad.Fix)}
	}
	if err != nil {
		return err
	}
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), x)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s: %s", event.Escape(x.Dest), x.Verdict)
	if x.Reason != "" {
		fmt.Fprintf(out, " (%s)", x.Reason)
	}
	fmt.Fprintf(out, ", rule %s, route %s, mode %s\n", event.Escape(x.Rule), x.Route, x.Mode)
	for _, sentence := range x.Words {
		fmt.Fprintf(out, "  %s\n", event.Escape(sentence))
	}
	if x.Hint != "" {
		fmt.Fprintf(out, "  To allow it: --allow %s\n", event.Escape(x.Hint))
	}
	return nil
}

// loadPolicy compiles what a file says about an app.
func loadPolicy(cmd *cobra.Command, path, app string) (*policy.Policy, error) {
	file, err := policy.LoadFile(path)
	var p *policy.Policy
	if err == nil {
		p, err = policy.New(policy.Config{File: file, App: app})
	}
	return p, reported(cmd, err)
}

// reported writes those errors that have a place in a file, and returns what is left to say.
func reported(cmd *cobra.Command, err error) error {
	errs := policyErrors(err)
	if len(errs) == 0 {
		return err
	}
	if wantsJSON(cmd) {
		if err := writeJSON(cmd.OutOrStdout(), map[string]any{"errors": errs}); err != nil {
			return err
		}
	}
	writeDetails(cmd.ErrOrStderr(), errs)
	return exitError{status: 1}
}

// policyErrors returns the errors that have a place in a file.
func policyErrors(err error) []*policy.Error {
	var all policy.Errors
	var one *policy.Error
	switch {
	case errors.As(err, &all):
		return all
	case errors.As(err, &one):
		return []*policy.Error{one}
	}
	return nil
}

func writeDetails(w io.Writer, errs []*policy.Error) {
	for _, e := range errs {
		for line := range strings.Lines(e.Detail()) {
			fmt.Fprintln(w, event.Escape(strings.TrimSuffix(line, "\n")))
		}
	}
}

func wantsJSON(cmd *cobra.Command) bool {
	on, err := cmd.Flags().GetBool("json")
	return err == nil && on
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
