//go:build linux && !client

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const cursorConfig = `{
	"mcpServers": {
		"github": {
			"command": "npx",
			"args": ["-y", "@modelcontextprotocol/server-github"],
			"env": {"GITHUB_TOKEN": "hunter2"}
		},
		"linear": {"url": "https://mcp.linear.example/sse"}
	}
}
`

// wrapHome makes a home with cursor's configuration in it and returns the file's path.
func wrapHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	path := filepath.Join(home, ".cursor", "mcp.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(cursorConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wrapRun runs "weir ARGS" for wrap and unwrap and returns what it prints.
func wrapRun(args ...string) (string, error) {
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

func TestWrapAndUnwrap(t *testing.T) {
	path := wrapHome(t)
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	out, err := wrapRun("wrap", "cursor", "--dry-run")
	if err != nil || read() != cursorConfig {
		t.Fatalf("dry run: %v\n%s", err, read())
	}
	for _, want := range []string{
		"-\t\t\t\"command\": \"npx\",\n",
		"+\t\t\t\"command\": \"weir\",\n",
		"wrapped    github: weir run --name github --env GITHUB_TOKEN -- npx -y @modelcontextprotocol/server-github\n",
		"remote     linear: it is reached by URL",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("dry run says %s\nwithout %s", out, want)
		}
	}

	out, err = wrapRun("wrap", "cursor", "--mode", "audit", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var result wrapResult
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(result.Files) != 1 || !result.Files[0].Changed || result.Files[0].Backup == "" || len(result.Files[0].Servers) != 2 {
		t.Errorf("%+v", result)
	}
	if !strings.Contains(read(), `["run", "--name", "github", "--mode", "audit", "--env", "GITHUB_TOKEN", "--", "npx", "-y", `) {
		t.Errorf("wrapped file:\n%s", read())
	}

	if out, err = wrapRun("wrap", "cursor"); err != nil || !strings.Contains(out, "already    github") || strings.Contains(out, "restart") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	if out, err = wrapRun("unwrap", "cursor"); err != nil || read() != cursorConfig {
		t.Errorf("unwrap: %v\n%s\n%s", err, out, read())
	}
	if !strings.Contains(out, "unwrapped  github: npx -y") || !strings.Contains(out, "restart cursor") {
		t.Errorf("unwrap says %s", out)
	}
}

func TestWrapErrors(t *testing.T) {
	path := wrapHome(t)
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{\n  \"mcpServers\": {,}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args, want string
	}{
		{"wrap", "weir wrap: want one CLIENT of claude-code, claude-desktop, cursor, vscode"},
		{"wrap emacs", `client "emacs" is not known`},
		{"wrap vscode", "no configuration of vscode found at "},
		{"wrap cursor --server gitlab", "--server gitlab: no server of that name in " + path},
		{"wrap cursor --file " + broken, broken + ":2:18: "},
		{"wrap cursor --file " + broken + ".missing", "read config: open "},
		{"wrap cursor --mode ask", `--mode "ask": want audit or enforce`},
		{"wrap cursor --policy " + broken + ".missing", "--policy: stat "},
		{"unwrap cursor --mode audit", "unknown flag: --mode"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			out, err := wrapRun(strings.Fields(test.args)...)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || out != "" {
				t.Errorf("error %v, output %q; want %s", err, out, test.want)
			}
		})
	}
	if b, _ := os.ReadFile(path); string(b) != cursorConfig {
		t.Errorf("the file was touched:\n%s", b)
	}
}

func TestWrapAbsoluteAndPolicy(t *testing.T) {
	path := wrapHome(t)
	policy := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(policy))
	if _, err := wrapRun("wrap", "cursor", "--absolute", "--policy", "weir.yaml"); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	b, _ := os.ReadFile(path)
	for _, want := range []string{`"command": "` + self + `"`, `"--policy", "` + policy + `"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if _, err := wrapRun("unwrap", "cursor"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != cursorConfig {
		t.Errorf("after unwrap:\n%s", b)
	}
}

func TestEscapeLines(t *testing.T) {
	if got, want := escapeLines("a\tb\r\n\x1b[2J\nend"), "a\tb\n\\u001b[2J\nend"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
