//go:build linux

package tests

import (
	"bytes"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// registryOfNPM is the host and port that npm downloads from. Its name is never printed.
func registryOfNPM(t *testing.T) (host, port string) {
	for _, program := range []string{"npx", "npm", "node"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	out, err := exec.Command("npm", "config", "get", "registry").Output()
	if err != nil {
		t.Skipf("npm config get registry: %v", err)
	}
	u, err := url.Parse(strings.TrimSpace(string(out)))
	if err != nil || u.Hostname() == "" || net.ParseIP(u.Hostname()) != nil || u.Hostname() == "localhost" {
		t.Skip("npm has no registry with a name")
	}
	if port = u.Port(); port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Hostname(), port
}

// TestRegistryDenied is the main job with the registry left out of the rules (tests/registry has it with the registry in).
// The playground's DNS does not know the registry, so with the right rule npx fails as well: but then a question has left.
func TestRegistryDenied(t *testing.T) {
	host, port := registryOfNPM(t)
	redact := func(s string) string { return strings.ReplaceAll(s, host, "REGISTRY") }
	tap := tapUplink(t)
	run := func(rule string) (output, events string) {
		dir := t.TempDir()
		cmd := exec.Command(filepath.Join(binDir(), "weir"), "run", "--name", "everything", "--events", "fd:3", "--mode", "enforce", "--allow", rule,
			"--", "npx", "-y", "@modelcontextprotocol/server-everything")
		cmd.Env = append(stateOf(t), "npm_config_fetch_retries=0")
		book, err := os.Create(filepath.Join(dir, "events"))
		if err != nil {
			t.Fatal(err)
		}
		defer book.Close()
		cmd.ExtraFiles = []*os.File{book}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err == nil {
			t.Errorf("npx ended well without a registry:\n%s", redact(out.String()))
		}
		text, err := os.ReadFile(book.Name())
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), string(text)
	}

	output, events := run("shop.example")
	if left := tap.sent(t); len(left) > 0 {
		t.Errorf("%d packets left the host: %v", len(left), left)
	}
	if !regexp.MustCompile(`npm (error|ERR!) code E`).MatchString(output) {
		t.Errorf("npx did not say what was wrong:\n%s", redact(output))
	}
	if !strings.Contains(output, "weir: denied "+host) {
		t.Errorf("weir did not say what was denied:\n%s", redact(output))
	}
	if !hasEvent(t, events, "dns-query", "hostname="+host, "verdict=deny", "reason=dns-blocked") {
		t.Errorf("no denied query in:\n%s", redact(events))
	}
	if slices.ContainsFunc(world.Queries(), func(q string) bool { return strings.HasPrefix(q, host+" ") }) {
		t.Error("the question left the host")
	}

	_, events = run(net.JoinHostPort(host, port))
	if len(tap.sent(t)) == 0 {
		t.Error("with the registry allowed no packet left either: the count proves nothing")
	}
	if !slices.ContainsFunc(world.Queries(), func(q string) bool { return strings.HasPrefix(q, host+" ") }) {
		t.Error("with the registry allowed its name was not asked for")
	}
	if !hasEvent(t, events, "dns-query", "hostname="+host, "verdict=allow") {
		t.Errorf("no allowed query in:\n%s", redact(events))
	}
}
