//go:build linux && !client

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/playground"
)

// The cast of the demo.
var (
	shopAddr = netip.MustParseAddr("198.51.100.10")
	apiAddr  = netip.MustParseAddr("198.51.100.11")
	evilAddr = netip.MustParseAddr("203.0.113.66")
)

// demoRules are what the program in the demo may do.
var demoRules = []string{"--allow", "shop.example", "--allow", "api.example:80"}

func newDemoCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job with everything embedded and no network",
		Long: `Make a small internet on this machine (DNS, HTTP, HTTPS and QUIC servers in namespaces of their own), run a program in a
sandbox that uses it and then tries what it may not, and show what happened. No privileges, no network.`,
		Example: "  weir demo\n  weir demo --json | jq .events[]",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !playground.Inside() {
				return enterPlayground()
			}
			return runDemo(cmd.OutOrStdout(), g)
		},
	}
	cmd.AddCommand(newDemoProgramCommand())
	return cmd
}

func enterPlayground() error {
	status, err := playground.Enter()
	if err != nil {
		return hint(err, "%s", namespaceFix(err))
	}
	if status != 0 {
		return exitError{status: status}
	}
	return nil
}

// runDemo plays the demo, in the playground.
func runDemo(out io.Writer, g *globals) error {
	w, err := playground.Open()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := openShops(w); err != nil {
		return err
	}
	attempts, events, err := playDemo(w, g)
	if err != nil {
		return err
	}
	if g.json {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		err = enc.Encode(struct {
			Attempts []attempt         `json:"attempts"`
			Events   []json.RawMessage `json:"events"`
		}{attempts, events})
	} else {
		tellDemo(out, attempts, events, wantsColor(os.Stdout) && !g.noColor)
	}
	for _, a := range attempts {
		if !a.AsExpected {
			return errors.Join(err, fmt.Errorf("demo: %q did not go as it should: %s", a.What, a.Result))
		}
	}
	return err
}

// openShops opens the servers of the demo's internet.
func openShops(w *playground.World) error {
	hello := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "hello from %s", r.Host) })
	return errors.Join(
		w.Name("shop.example", shopAddr), w.Name("api.example", apiAddr), w.Name("evil.example", evilAddr),
		w.ServeHTTPS(netip.AddrPortFrom(shopAddr, 443), hello),
		w.ServeHTTP3(netip.AddrPortFrom(shopAddr, 443), hello),
		w.ServeHTTP(netip.AddrPortFrom(apiAddr, 80), hello),
		w.ServeHTTPS(netip.AddrPortFrom(evilAddr, 443), hello),
	)
}

// playDemo runs the program under weir and returns what it tried and what weir wrote down.
func playDemo(w *playground.World, g *globals) ([]attempt, []json.RawMessage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find own binary: %w", err)
	}
	book := filepath.Join(w.Dir, "events.jsonl")
	args := append([]string{"run", "--name", "demo", "--quiet", "--events", book}, demoRules...)
	args = append(args, "--share", self+":/run/weir-demo:ro", "--share", w.CAFile()+":/run/ca.pem:ro", "--env", "SSL_CERT_FILE=/run/ca.pem",
		"--", "/run/weir-demo", "demo", "program")
	run := exec.Command(self, args...)
	run.Env = append(os.Environ(), "XDG_DATA_HOME="+w.Dir, "XDG_STATE_HOME="+w.Dir)
	var stdout bytes.Buffer
	run.Stdout, run.Stderr = &stdout, os.Stderr
	err = playground.Start(run)
	if err == nil {
		err = run.Wait()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("run the program: %w", err)
	}
	var attempts []attempt
	for lines := bufio.NewScanner(&stdout); lines.Scan(); {
		var a attempt
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return nil, nil, fmt.Errorf("read what the program said: %w", err)
		}
		attempts = append(attempts, a)
	}
	text, err := os.ReadFile(book)
	if err != nil {
		return nil, nil, fmt.Errorf("read events: %w", err)
	}
	var events []json.RawMessage
	for line := range bytes.Lines(text) {
		events = append(events, json.RawMessage(bytes.TrimSpace(line)))
	}
	return attempts, events, nil
}

// tellDemo shows both sides of the story.
func tellDemo(out io.Writer, attempts []attempt, events []json.RawMessage, color bool) {
	fmt.Fprintf(out, "A program nobody audited runs under:  weir run %s -- program\n\nWhat it tried, and what it got:\n", strings.Join(demoRules, " "))
	for _, a := range attempts {
		mark := paint(color, "32", "carried")
		if !a.Carried {
			mark = paint(color, "31", "stopped")
		}
		fmt.Fprintf(out, "  %s  %-52s %s\n", mark, event.Escape(a.What), event.Escape(a.Result))
	}
	fmt.Fprint(out, "\nWhat weir wrote down:\n")
	report := &event.Report{}
	for _, line := range events {
		if e, err := event.Parse(line); err == nil {
			report.Emit(e)
		}
	}
	event.WriteTable(out, report.Rows(), event.TableOptions{Color: color})
	fmt.Fprint(out, "\nOne of its lines:\n")
	for _, line := range events {
		if bytes.Contains(line, []byte(`"no-evidence"`)) {
			fmt.Fprintf(out, "  %s\n", line)
			break
		}
	}
	fmt.Fprint(out, "\nNow your own:  weir run -- npx -y @modelcontextprotocol/server-everything\n")
}

func paint(color bool, code, text string) string {
	if !color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
