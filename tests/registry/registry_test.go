//go:build linux

// Package registry is the main job once, against the real world: an MCP client starts a server through weir, and npx
// downloads that server through weir's own stack. It runs in the machine's own network, as a user would; what needs to count
// packets is in package tests. The registry is the one that npm is configured for. Its name is read at run time and kept
// out of everything that the test prints.
package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const server = "@modelcontextprotocol/server-everything"

// patience bounds the whole session. A download takes seconds; only a hang gets here.
const patience = 3 * time.Minute

// endpoint is where npm gets packages from.
type endpoint struct{ scheme, host, port string }

// rule allows it and nothing else.
func (e endpoint) rule() string { return net.JoinHostPort(e.host, e.port) }

// redact takes the name out of what is printed.
func (e endpoint) redact(text string) string { return strings.ReplaceAll(text, e.host, "REGISTRY") }

// findRegistry asks npm, and skips where the test can prove nothing.
func findRegistry(t *testing.T) endpoint {
	if _, err := exec.LookPath("npx"); err != nil {
		t.Skip("npx is not installed")
	}
	for _, key := range []string{"https-proxy", "proxy"} {
		if v := npmConfig(t, key); v != "null" && v != "" && v != "undefined" {
			t.Skip("npm goes through a proxy here: weir would name the proxy, not the registry")
		}
	}
	u, err := url.Parse(npmConfig(t, "registry"))
	if err != nil || u.Hostname() == "" {
		t.Skip("npm has no registry configured")
	}
	e := endpoint{u.Scheme, u.Hostname(), u.Port()}
	if e.port == "" {
		e.port = map[string]string{"http": "80", "https": "443"}[e.scheme]
	}
	if net.ParseIP(e.host) != nil {
		t.Skip("the registry has no name, only an address")
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort(e.host, e.port), 10*time.Second)
	if err != nil {
		t.Skip("the registry cannot be reached from here")
	}
	defer c.Close()
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && a.IP.IsLoopback() {
		t.Skip("the registry is on this machine's loopback, which sandboxes reach under another name")
	}
	return e
}

func npmConfig(t *testing.T, key string) string {
	out, err := exec.Command("npm", "config", "get", key).Output()
	if err != nil {
		t.Skipf("npm config get %s: %v", key, err)
	}
	return strings.TrimSpace(string(out))
}

// buildWeir builds the command under test.
func buildWeir(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "weir")
	build := exec.Command("go", "build", "-o", path, "github.com/weir-dev/weir/cmd/weir")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	return path
}

func TestMCPServerFromTheRegistry(t *testing.T) {
	reg := findRegistry(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	state := t.TempDir() // a fresh home for the app: nothing comes from a cache
	book, err := os.Create(filepath.Join(state, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	cmd := exec.CommandContext(ctx, buildWeir(t), "run", "--name", "everything", "--events", "fd:3", "--mode", "enforce",
		"--allow", reg.rule(), "--", "npx", "-y", server)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+state, "XDG_STATE_HOME="+state, "XDG_CONFIG_HOME="+state)
	cmd.ExtraFiles = []*os.File{book}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr

	answer, err := talk(ctx, cmd)
	if err != nil {
		t.Fatalf("%s\nstderr: %s", reg.redact(err.Error()), reg.redact(stderr.String()))
	}
	if !strings.Contains(answer, "said through weir") {
		t.Errorf("echo answered %q", reg.redact(answer))
	}
	text, err := os.ReadFile(book.Name())
	if err != nil {
		t.Fatal(err)
	}
	checkEvents(t, reg, text)
}

// talk is what an MCP client does with a server: initialize, tools/list, tools/call, hang up. This server does not end with
// its stdin, so the SDK ends weir by SIGTERM, which goes on to it.
func talk(ctx context.Context, cmd *exec.Cmd) (answer string, err error) {
	client := mcp.NewClient(&mcp.Implementation{Name: "weir-tests", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd, TerminateDuration: 2 * time.Second}, nil)
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := session.Close(); err == nil {
			err = ignoreExit(cerr)
		}
	}()
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return "", err
	}
	for _, tool := range tools.Tools {
		if tool.Name != "echo" {
			continue
		}
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"message": "said through weir"}})
		if err != nil {
			return "", err
		}
		for _, c := range result.Content {
			if t, ok := c.(*mcp.TextContent); ok {
				answer += t.Text
			}
		}
	}
	return answer, nil
}

// ignoreExit lets a server end with any status when its client hangs up.
func ignoreExit(err error) error {
	if _, ok := err.(*exec.ExitError); ok {
		return nil
	}
	return err
}

// checkEvents looks for the registry's name in the book, told by DNS and by the connection itself.
func checkEvents(t *testing.T, reg endpoint, text []byte) {
	source := map[string]string{"http": "http-host", "https": "sni"}[reg.scheme]
	var asked, named, carried bool
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var e struct {
			Event, App string
			Details    struct {
				Hostname, Verdict, RCode string
				NameSource               string  `json:"name_source"`
				SNI                      string  `json:"sni"`
				HTTPHost                 string  `json:"http_host"`
				Sent                     float64 `json:"bytes_sent"`
				Received                 float64 `json:"bytes_received"`
				Duration                 float64 `json:"duration_ms"`
			}
		}
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("events: %v", err)
		}
		d := e.Details
		if e.App != "everything" {
			t.Errorf("event %s of app %q", e.Event, e.App)
		}
		if d.Hostname != reg.host {
			if (e.Event == "network-connect" || e.Event == "dns-query") && d.Verdict == "allow" {
				t.Errorf("%s: something else than the registry was allowed", e.Event)
			}
			continue
		}
		asked = asked || e.Event == "dns-query" && d.Verdict == "allow" && d.RCode == "NOERROR"
		named = named || e.Event == "network-connect" && d.Verdict == "allow" && d.NameSource == source && (d.SNI == reg.host || d.HTTPHost == reg.host)
		carried = carried || e.Event == "network-close" && d.Sent > 0 && d.Received > 100_000 && d.Duration > 0
	}
	for what, seen := range map[string]bool{
		"an allowed dns-query of the registry's name":                     asked,
		"a network-connect with the registry's name in its first bytes":   named,
		"a network-close with the bytes and the duration of the download": carried,
	} {
		if !seen {
			t.Errorf("no event is %s:\n%s", what, reg.redact(string(text)))
		}
	}
}
