package clientconfig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tailscale/hujson"
)

// golden is one file under testdata: a client's configuration before and after, and what is said of each server.
type golden struct {
	name                   string
	client                 Client
	options                Options
	before, after, servers string
}

// goldens reads all of them. $HOME in them stands for a directory that holds the files home/... of the archive.
func goldens(t *testing.T) []golden {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	var all []golden
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		home := t.TempDir()
		g := golden{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), options: Options{Weir: "weir", Home: home}}
		g.head(t, string(archive.Comment))
		for _, f := range archive.Files {
			content := strings.ReplaceAll(string(f.Data), "$HOME", home)
			switch f.Name {
			case "before":
				g.before = content
			case "after":
				g.after = content
			case "servers":
				g.servers = content
			default:
				path := filepath.Join(home, strings.TrimPrefix(f.Name, "home/"))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		all = append(all, g)
	}
	return all
}

func (g *golden) head(t *testing.T, comment string) {
	head, _, _ := strings.Cut(comment, "\n\n")
	for _, line := range strings.Split(head, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "client":
			c, err := Find(value)
			if err != nil {
				t.Fatal(err)
			}
			g.client = c
		case "mode":
			g.options.Mode = value
		case "policy":
			g.options.Policy = value
		case "weir":
			g.options.Weir = value
		case "server":
			g.options.Servers = append(g.options.Servers, value)
		default:
			t.Fatalf("%s: unknown setting %q", g.name, line)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			c, err := Wrap("config.json", []byte(g.before), g.client, g.options)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(g.after, string(c.After)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(g.servers, describe(c.Servers)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			again, err := Wrap("config.json", c.After, g.client, g.options)
			if err != nil || again.Changed() {
				t.Errorf("a second time: %v\n%s", err, Diff("config.json", again.Before, again.After))
			}
		})
	}
}

func describe(servers []Server) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "%s %s", s.Action, s.Name)
		if s.Why != "" {
			fmt.Fprintf(&b, ": %s", s.Why)
		}
		b.WriteByte('\n')
		for _, n := range s.Notes {
			fmt.Fprintf(&b, "  note: %s\n", n)
		}
	}
	return b.String()
}

// layouts are forms that the same file may have on disk.
func layouts(text string) map[string][]byte {
	return map[string][]byte{
		"as it is":         []byte(text),
		"windows lines":    []byte(strings.ReplaceAll(text, "\n", "\r\n")),
		"no final newline": []byte(strings.TrimSuffix(text, "\n")),
		"byte order mark":  []byte("\xef\xbb\xbf" + text),
		"minimized":        minimized(text),
	}
}

func minimized(text string) []byte {
	b, err := hujson.Minimize([]byte(text))
	if err != nil {
		panic(err)
	}
	return b
}

func TestUnwrapIsExact(t *testing.T) {
	for _, g := range goldens(t) {
		for layout, src := range layouts(g.before) {
			t.Run(g.name+"/"+layout, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "config.json")
				if err := os.WriteFile(path, src, 0o640); err != nil {
					t.Fatal(err)
				}
				wrapped, err := Wrap(path, src, g.client, g.options)
				if err != nil {
					t.Fatal(err)
				}
				backup, err := SaveWrapped(wrapped)
				if err != nil {
					t.Fatal(err)
				}
				if got := Backups(path); len(got) != 1 || got[0] != backup {
					t.Errorf("backups %v, want %s", got, backup)
				}
				if layout == "windows lines" && bytes.Count(wrapped.After, []byte("\n")) != bytes.Count(wrapped.After, []byte("\r\n")) {
					t.Errorf("line ends are mixed:\n%q", wrapped.After)
				}
				options := g.options
				options.Servers = nil
				if g.name == "cursor" { // where one was under weir from the beginning
					options.Servers = []string{"one"}
				}
				now, _ := Read(path)
				back, err := Unwrap(path, now, g.client, options)
				if err != nil {
					t.Fatal(err)
				}
				if err := SaveUnwrapped(back); err != nil {
					t.Fatal(err)
				}
				if now, _ = Read(path); !bytes.Equal(now, src) {
					t.Errorf("not as before:\n%s", Diff(path, src, now))
				}
				if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
					t.Errorf("files left beside it: %v", left)
				}
				if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
					t.Errorf("mode %v", info.Mode())
				}
				for _, s := range back.Servers {
					if was := strings.Contains(g.servers, "wrapped "+s.Name+"\n"); was != (s.Action == Unwrapped) {
						t.Errorf("%s: %s %s", s.Name, s.Action, s.Why)
					}
				}
			})
		}
	}
}

// Without a backup each entry is turned back on its own: the same file, but for args that were not there before.
func TestStructuralUnwrap(t *testing.T) {
	for _, g := range goldens(t) {
		for layout, src := range layouts(g.before) {
			t.Run(g.name+"/"+layout, func(t *testing.T) {
				wrapped, err := Wrap("none/config.json", src, g.client, g.options)
				if err != nil {
					t.Fatal(err)
				}
				options := g.options
				if g.name == "cursor" {
					options.Servers = []string{"one"}
				}
				back, err := Unwrap("none/config.json", wrapped.After, g.client, options)
				if err != nil {
					t.Fatal(err)
				}
				want, got := commands(t, src, g.client), commands(t, back.After, g.client)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if !strings.Contains(g.after, `"bare"`) && !strings.Contains(g.before, `"command": "/usr/local`) && g.name != "odd" && !bytes.Equal(back.After, src) {
					t.Errorf("not as before:\n%s", Diff("config.json", src, back.After))
				}
			})
		}
	}
}

// commands returns the command line of each server that has one.
func commands(t *testing.T, src []byte, c Client) map[string][]string {
	t.Helper()
	d, err := parse("config.json", src)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, e := range d.entries(c) {
		p, action, _, err := d.program(e)
		if err != nil {
			t.Fatal(err)
		}
		if action == "" {
			all[e.key()] = p.argv
		}
	}
	return all
}

func TestUnwrapAfterTheClientWrote(t *testing.T) {
	c, _ := Find("claude-code")
	o := Options{Weir: "weir"}
	path := filepath.Join(t.TempDir(), ".claude.json")
	steps := []string{
		`{"n":1,"mcpServers":{"a":{"command":"npx","args":["a"]}}}`,
		`{"n":2,"mcpServers":{"a":{"command":"weir","args":["run", "--name", "a", "--", "npx", "a"]},"b":{"command":"npx"}}}`,
	}
	for _, src := range steps {
		if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		change, err := Wrap(path, []byte(src), c, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := SaveWrapped(change); err != nil {
			t.Fatal(err)
		}
	}
	now, _ := Read(path)
	change, err := Unwrap(path, now, c, o)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"n":2,"mcpServers":{"a":{"command":"npx","args":["a"]},"b":{"command":"npx"}}}`
	if string(change.After) != want {
		t.Errorf("got  %s\nwant %s", change.After, want)
	}
	if len(Backups(path)) != 2 {
		t.Errorf("backups %v", Backups(path))
	}

	t.Run("one server, structurally", func(t *testing.T) {
		o := o
		o.Servers = []string{"a"}
		change, err := Unwrap(path, now, c, o)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"n":2,"mcpServers":{"a":{"command":"npx","args":["a"]},"b":{"command":"weir", "args": ["run", "--name", "b", "--", "npx"]}}}`
		if string(change.After) != want {
			t.Errorf("got  %s\nwant %s", change.After, want)
		}
	})
}

func TestUnwrapOdd(t *testing.T) {
	c, _ := Find("cursor")
	tests := []struct{ name, in, want, why string }{
		{"policy only", `{"mcpServers":{"a":{"command":"weir","args":["run","-f","weir.yaml"]}}}`, "", `it has no command of its own after "--"`},
		{"nothing after the dashes", `{"mcpServers":{"a":{"command":"weir","args":["run","--"]}}}`, "", `it has no command of its own after "--"`},
		{"trailing comma", `{"mcpServers":{"a":{"command":"/x/weir","args":["run","--","npx" , ]}}}`, `{"mcpServers":{"a":{"command":"npx","args":[ ]}}}`, ""},
		{"dashes of its own", `{"mcpServers":{"a":{"command":"weir","args":["run","--","npx","--","b"]}}}`, `{"mcpServers":{"a":{"command":"npx","args":["--","b"]}}}`, ""},
		{"not weir", `{"mcpServers":{"a":{"command":"npx"}}}`, "", "it does not start under weir"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			change, err := Unwrap("none/x", []byte(test.in), c, Options{Weir: "weir"})
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				test.want = test.in
			}
			if string(change.After) != test.want || change.Servers[0].Why != test.why {
				t.Errorf("got  %s %+v\nwant %s", change.After, change.Servers, test.want)
			}
		})
	}
}

func TestBrokenFiles(t *testing.T) {
	c, _ := Find("cursor")
	tests := []struct{ name, in, want string }{
		{"syntax", "{\n  \"mcpServers\": {\n    \"a\": oops\n}}", "mcp.json:3:10: "},
		{"cut off", `{"mcpServers": {`, "mcp.json:1:17: "},
		{"empty", "", "mcp.json:1:1: "},
		{"no object", `[1]`, "mcp.json:1:1: the file is not a JSON object"},
		{"key twice", "{\"mcpServers\":{\"a\":{\"command\":\"x\",\n \"command\":\"y\"}}}", `mcp.json:2:2: the key "command" is here twice`},
		{"args twice", `{"mcpServers":{"a":{"command":"x","args":[],"args":["b"]}}}`, `mcp.json:1:45: the key "args" is here twice`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, do := range []func(string, []byte, Client, Options) (*Change, error){Wrap, Unwrap} {
				change, err := do("mcp.json", []byte(test.in), c, Options{Weir: "weir"})
				if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%+v, error %v; want %s", change, err, test.want)
				}
			}
		})
	}
	if _, err := Wrap("big", make([]byte, maxFile+1), c, Options{}); err == nil {
		t.Error("a file that is too large is read")
	}
}

func FuzzWrap(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range archive.Files {
			if part.Name == "before" || part.Name == "after" {
				f.Add(part.Data)
			}
		}
	}
	f.Add([]byte(`{"servers":{"a":{"command":"x","args":[/*c*/]},"b":{"args":["y",],"command":"x"},},}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, _ := Find("vscode")
		o := Options{Weir: "/opt/weir", Mode: "audit"}
		wrapped, err := Wrap("none/f", src, c, o)
		if err != nil {
			return
		}
		again, err := Wrap("none/f", wrapped.After, c, o)
		if err != nil || again.Changed() {
			t.Fatalf("a second time: %v\n%s", err, wrapped.After)
		}
		for _, s := range wrapped.Servers {
			if s.Action == Already {
				return
			}
		}
		back, err := Unwrap("none/f", wrapped.After, c, o)
		if err != nil {
			t.Fatalf("%v\n%s", err, wrapped.After)
		}
		if diff := cmp.Diff(commands(t, src, c), commands(t, back.After, c)); diff != "" {
			t.Fatalf("%s\n%s", diff, wrapped.After)
		}
	})
}
