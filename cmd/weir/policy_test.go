package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const policyFile = `version: 1
mode: enforce
defaults:
  deny: ["ads.example"]
apps:
  github:
    allow: [api.github.com]
    install:
      allow: [registry.example]
  postgres:
    route: tunnel
    allow: ["db.corp.example:5432"]
`

// policyRun runs weir policy with the arguments, in which FILE is a file with the text.
func policyRun(t *testing.T, text, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "FILE", path)
	}
	root := &cobra.Command{Use: "weir", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(newPolicyCommand())
	var out, diagnostics bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&diagnostics)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(append([]string{"policy"}, args...))
	err := root.Execute()
	var exit exitError
	var bad usageError
	switch {
	case errors.As(err, &exit):
		status = exit.status
	case errors.As(err, &bad):
		status = 2
	case err != nil:
		status = 1
		diagnostics.WriteString(err.Error())
	}
	return out.String(), strings.ReplaceAll(diagnostics.String(), path, "weir.yaml"), status
}

func TestPolicyCheck(t *testing.T) {
	out, diagnostics, status := policyRun(t, policyFile, "", "check", "FILE")
	if status != 0 || diagnostics != "" || !strings.Contains(out, "github: enforce, 3 rules") {
		t.Errorf("a good file: %d %q %q", status, out, diagnostics)
	}
	_, diagnostics, status = policyRun(t, "version: 1\napps:\n  a:\n    alow: [a.example]\n", "", "check", "FILE")
	want := "weir.yaml:4:5: unknown key \"alow\" in an app\n      alow: [a.example]\n      ^\nfix: write allow\n"
	if status != 1 || diagnostics != want {
		t.Errorf("a broken file: %d\n%s", status, diagnostics)
	}
	_, diagnostics, status = policyRun(t, "version: 1\napps:\n  a:\n    allow: [a.example, a.example via tunnel]\n", "", "check", "FILE")
	if status != 1 || !strings.Contains(diagnostics, "weir.yaml:4:24: a.example goes tunnel here and direct in a.example (weir.yaml:4)") {
		t.Errorf("two routes: %d\n%s", status, diagnostics)
	}
	out, _, status = policyRun(t, "version: 1\nmode: x\n", "", "check", "--json", "FILE")
	var result struct {
		OK     bool
		Errors []struct {
			Line, Column int
			Message, Fix string
		}
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || status != 1 || result.OK || len(result.Errors) != 1 || result.Errors[0].Line != 2 {
		t.Errorf("--json: %v %d %s", err, status, out)
	}
	if _, diagnostics, status = policyRun(t, "version: 1\ndefaults: {allow: [\"*.github.io\"]}\n", "", "check", "FILE"); status != 0 || !strings.Contains(diagnostics, ":2:21: warning: ") {
		t.Errorf("a warning: %d %q", status, diagnostics)
	}
	if out, _, status = policyRun(t, "", "", "check", "--schema"); status != 0 || !json.Valid([]byte(out)) {
		t.Errorf("--schema: %d %q", status, out)
	}
	if _, _, status = policyRun(t, "", "", "check"); status != 2 {
		t.Errorf("without a file: %d", status)
	}
	if _, diagnostics, status = policyRun(t, "", "", "check", "FILE.none"); status != 1 || !strings.Contains(diagnostics, "open policy") {
		t.Errorf("no such file: %d %q", status, diagnostics)
	}
}

func TestPolicyExplain(t *testing.T) {
	for _, c := range []struct {
		app, dest string
		words     []string
	}{
		{"github", "api.github.com", []string{"api.github.com: allow, rule weir.yaml:7, route direct, mode enforce", "weir.yaml:7 covers the name", "weir.yaml:7 allows it"}},
		{"github", "api.github.com:22", []string{"deny (port)", "not on this port", "--allow api.github.com:22"}},
		{"github", "ads.example", []string{"deny (rule), rule weir.yaml:4", "NXDOMAIN", "a deny always wins"}},
		{"github", "evil.example:443", []string{"deny (default)", "NXDOMAIN", "no allow covers", "--allow evil.example"}},
		{"github", "registry.example", []string{"allow, rule weir.yaml:9"}},
		{"github", "169.254.169.254:80", []string{"deny (guard)", "guarded (metadata)"}},
		{"github", "10.0.0.1:5432", []string{"deny (private)", "--allow 10.0.0.1:5432"}},
		{"github", "[64:ff9b::7f00:1]:80", []string{"deny (guard)", "guarded (loopback)"}},
		{"github", "8.8.8.8/icmp", []string{"deny (default)", "--allow 8.8.8.8/icmp"}},
		{"github", "host.weir.internal:5432", []string{"deny (guard)", "--allow 127.0.0.1:5432"}},
		{"postgres", "db.corp.example:5432", []string{"allow", "route tunnel", "asked (tunnel)"}},
	} {
		out, diagnostics, status := policyRun(t, policyFile, "", "explain", "FILE", c.app, c.dest)
		if status != 0 || diagnostics != "" {
			t.Errorf("explain %s %s: %d %s", c.app, c.dest, status, diagnostics)
		}
		for _, w := range c.words {
			if !strings.Contains(out, w) {
				t.Errorf("explain %s %s: %q is missing in\n%s", c.app, c.dest, w, out)
			}
		}
	}
	out, _, _ := policyRun(t, policyFile, "", "explain", "--installed", "FILE", "github", "registry.example")
	if !strings.Contains(out, "deny (default)") {
		t.Errorf("--installed: %s", out)
	}
	out, _, _ = policyRun(t, policyFile, "", "explain", "--json", "FILE", "github", "api.github.com")
	var x struct {
		Verdict, Rule string
		DNS           struct{ Verdict string }
	}
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.Verdict != "allow" || x.Rule != "weir.yaml:7" || x.DNS.Verdict != "allow" {
		t.Errorf("--json: %v %s", err, out)
	}
	for _, dest := range []string{"10.0.0.1", "a b", "a.example:0", "a.example/sctp", ""} {
		if _, _, status := policyRun(t, policyFile, "", "explain", "FILE", "github", dest); status != 2 {
			t.Errorf("explain %q: status %d", dest, status)
		}
	}
	if _, _, status := policyRun(t, "version: 2\n", "", "explain", "FILE", "github", "a.example"); status != 1 {
		t.Errorf("a broken file: %d", status)
	}
}

const policyEvents = `{"time":"2026-11-21T10:02:11Z","event":"network-connect","app":"github","details":{"hostname":"api.github.com","name_source":"dns","names":["api.github.com"],"dest_ip":"203.0.113.5","dest_port":443,"protocol":"tcp","route":"direct","verdict":"would-deny","reason":"default","sni":"api.github.com"}}
{"time":"2026-11-21T10:02:12Z","event":"network-connect","app":"github","details":{"hostname":"t.example","name_source":"dns","names":["t.example"],"dest_ip":"203.0.113.6","dest_port":443,"protocol":"tcp","route":"direct","verdict":"allow","sni":""}}
{"time":"2026-11-21T10:02:13Z","event":"dns-qu`

func TestPolicySuggest(t *testing.T) {
	out, diagnostics, status := policyRun(t, "", policyEvents, "suggest", "-")
	if status != 0 || !strings.Contains(out, `- "api.github.com:443/tcp"`) || !strings.Contains(diagnostics, "1 of 3 lines") {
		t.Fatalf("%d %s %s", status, out, diagnostics)
	}
	// The loop closes: what was suggested is a good file, under which the same events pass.
	if _, d, status := policyRun(t, out, "", "check", "FILE"); status != 0 || d != "" {
		t.Errorf("check of the suggestion: %d %s", status, d)
	}
	if o, _, status := policyRun(t, out, policyEvents, "test", "--events", "-", "FILE"); status != 0 || !strings.Contains(o, "2 events, 0 changes") {
		t.Errorf("test of the suggestion: %d %s", status, o)
	}
	if o, _, _ := policyRun(t, "", policyEvents, "suggest", "--app", "other", "-"); strings.Contains(o, "github") {
		t.Errorf("--app: %s", o)
	}
	if o, _, _ := policyRun(t, "", policyEvents, "suggest", "--json", "-"); !json.Valid([]byte(o)) {
		t.Errorf("--json: %s", o)
	}
	if _, _, status := policyRun(t, "no event\n", "", "suggest", "FILE"); status != 1 {
		t.Errorf("no events at all: %d", status)
	}
}

func TestPolicyTest(t *testing.T) {
	out, _, status := policyRun(t, policyFile, policyEvents, "test", "--events", "-", "FILE")
	if status != 1 || !strings.Contains(out, "github: t.example:443/tcp: was allow, would be deny (default, builtin:default), 1x") || !strings.Contains(out, "2 events, 1 change") {
		t.Errorf("%d %s", status, out)
	}
	if out, _, _ := policyRun(t, policyFile, policyEvents, "test", "--json", "--events", "-", "FILE"); !json.Valid([]byte(out)) {
		t.Errorf("--json: %s", out)
	}
	if _, _, status := policyRun(t, policyFile, "", "test", "FILE"); status != 2 {
		t.Errorf("without events: %d", status)
	}
	events := policyEvents[:strings.LastIndexByte(policyEvents, '\n')+1]
	other := strings.ReplaceAll(events, `"github"`, `"other"`)
	strict := strings.Replace(policyFile, "defaults:\n  deny: [\"ads.example\"]\n", "", 1)
	out, diagnostics, status := policyRun(t, strict, events+other, "test", "--events", "-", "FILE")
	if status != 1 || !strings.Contains(out, "2 events, 1 change\n") || diagnostics != "weir: left out 2 events of apps that weir.yaml does not have: other\n" {
		t.Errorf("apps that the file does not have: %d %s%s", status, out, diagnostics)
	}
}
