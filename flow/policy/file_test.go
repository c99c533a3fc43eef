package policy

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files of broken policies anew")

// TestBrokenFiles: each broken file has its complaint beside it, word for word.
func TestBrokenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no broken files: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseFile(filepath.Base(path), data)
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("ParseFile: %v, want Errors", err)
			}
			var got strings.Builder
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.File == "" {
					t.Errorf("error without a position: %+v", e)
				}
				got.WriteString(e.Detail())
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, _ := os.ReadFile(golden)
			if got.String() != string(want) {
				t.Errorf("got\n%swant\n%s", got.String(), want)
			}
		})
	}
}

func TestExampleFile(t *testing.T) {
	f, err := LoadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// GitHub lets everybody have a name under githubusercontent.com, and the list of public suffixes knows.
	if len(f.Warnings) != 1 || f.Warnings[0].Line != 11 || f.Warnings[0].Column != 30 || f.Mode != ModeEnforce || len(f.Apps) != 2 {
		t.Fatalf("%+v", f)
	}
	app, ok := f.App("github")
	if !ok || strings.Join(app.Command, " ") != "npx -y @modelcontextprotocol/server-github" || strings.Join(app.Env, " ") != "GITHUB_TOKEN" {
		t.Fatalf("%+v", app)
	}
	p, err := New(Config{File: f, App: "github", Allow: []string{"@corp:443"}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(p *Policy, q, want, rule string) {
		t.Helper()
		if d := p.Decide(flow(t, q)); said(d) != want || d.Rule != rule {
			t.Errorf("%s: %s by %s, want %s by %s", q, said(d), d.Rule, want, rule)
		}
	}
	check(p, "203.0.113.5:443 asked=api.github.com claim=api.github.com", "allow", "example.yaml:11")
	check(p, "203.0.113.5:443 asked=x.githubusercontent.com", "allow", "example.yaml:11")
	check(p, "203.0.113.5:443 asked=api.github.com chain=ads.example", "deny rule", "example.yaml:6")
	check(p, "203.0.113.5:443 asked=x.corp.example", "allow", "flag:1")
	check(p, "10.1.2.3:443", "allow", "flag:1")
	check(p, "203.0.113.5:443 asked=registry.example", "allow", "example.yaml:13")
	p.InstallDone()
	check(p, "203.0.113.5:443 asked=registry.example", "deny default", "builtin:default")
	check(p, "203.0.113.5:443 asked=api.github.com", "allow", "example.yaml:11")

	if p, err = New(Config{File: f, App: "postgres"}); err != nil {
		t.Fatal(err)
	}
	if d := p.Decide(flow(t, "10.0.1.50:5432 asked=db.corp.example")); d.Verdict != Allow || d.Route != "tunnel" || d.Rule != "example.yaml:17" {
		t.Errorf("postgres: %+v", d)
	}
	if d := p.DecideName("db.corp.example", 1); d.Route != "tunnel" {
		t.Errorf("postgres asks %+v", d)
	}
}

// TestDocumentedFile: the file in docs/policy.md is one.
func TestDocumentedFile(t *testing.T) {
	data, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	if f, err := ParseFile("policy.md", []byte(text)); err != nil || len(f.Apps) != 2 {
		t.Fatalf("%v", err)
	}
}

// TestInstallEnds: what closes when the install rules end does not fall back to the open default.
func TestInstallEnds(t *testing.T) {
	f, err := ParseFile("p.yaml", []byte("version: 1\napps:\n  a:\n    deny: [ads.example]\n    install:\n      allow: [registry.example]\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{File: f, App: "a"})
	if err != nil {
		t.Fatal(err)
	}
	p.InstallDone()
	if d := p.Decide(flow(t, "203.0.113.5:443")); d.Verdict != Deny {
		t.Fatalf("after the install: %+v", d)
	}
	if p.Mode() != ModeEnforce {
		t.Fatalf("mode %s", p.Mode())
	}
}

func TestModeOfFile(t *testing.T) {
	for _, c := range []struct{ name, file, flag, want string }{
		{"nothing", "version: 1", "", ModeAudit},
		{"a rule", "version: 1\ndefaults:\n  deny: [a.example]", "", ModeEnforce},
		{"said", "version: 1\nmode: audit\ndefaults:\n  deny: [a.example]", "", ModeAudit},
		{"said, no rules", "version: 1\nmode: enforce", "", ModeEnforce},
		{"the flag wins", "version: 1\nmode: enforce", ModeAudit, ModeAudit},
	} {
		f, err := ParseFile("p.yaml", []byte(c.file))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := New(Config{File: f, Mode: c.flag}); err != nil || p.Mode() != c.want {
			t.Errorf("%s: %v, %v", c.name, p.Mode(), err)
		}
	}
}

func TestUnknownApp(t *testing.T) {
	f, err := ParseFile("p.yaml", []byte("version: 1\napps:\n  github: {allow: [a.example]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{File: f, App: "gihub"}); err == nil || !strings.Contains(err.Error(), "github") {
		t.Errorf("an app that is not there: %v", err)
	}
	f, err = ParseFile("p.yaml", []byte("version: 1\ndefaults: {allow: [a.example]}\napps:\n  github: {allow: [b.example]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{File: f, App: "other"})
	if err != nil || len(p.Warnings()) != 1 {
		t.Fatalf("an app with defaults only: %v, %v", p.Warnings(), err)
	}
	if d := p.Decide(flow(t, "203.0.113.5:443 asked=b.example")); d.Verdict != Deny {
		t.Errorf("another app's rule: %+v", d)
	}
}

func TestDigest(t *testing.T) {
	digest := func(c Config) string {
		p, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		return p.Digest()
	}
	a := digest(Config{Allow: []string{"a.example", "b.example:443"}})
	if b := digest(Config{Allow: []string{"B.example:443 ", "a.example"}}); a != b {
		t.Error("order and spelling change the digest")
	}
	for _, c := range []Config{
		{Allow: []string{"a.example"}}, {Allow: []string{"a.example", "b.example:80"}}, {Deny: []string{"a.example", "b.example:443"}},
		{Allow: []string{"a.example", "b.example:443"}, Mode: ModeAudit}, {Allow: []string{"a.example", "b.example:443"}, Route: "tunnel"},
		{Allow: []string{"a.example", "b.example:443"}, HostPorts: []uint16{1}},
	} {
		if digest(c) == a {
			t.Errorf("%+v has the same digest", c)
		}
	}
}

func TestFileBounds(t *testing.T) {
	_, err := ParseFile("p.yaml", []byte(strings.Repeat("#", MaxFile+1)))
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
	_, err = ParseFile("p.yaml", []byte("version: 1\n#"+strings.Repeat("x", MaxLine)))
	if err == nil || !strings.Contains(err.Error(), "p.yaml:2:1: the line is") {
		t.Errorf("a long line: %v", err)
	}
	_, err = ParseFile("p.yaml", []byte("version: 1\ndefaults:\n  deny: ["+strings.Repeat(`"*",`, 3*MaxErrors)+"]"))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != MaxErrors {
		t.Errorf("%d errors of many", len(errs))
	}
	if _, err := LoadFile(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestSchemaIsJSON(t *testing.T) {
	var s struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "mode", "groups", "defaults", "apps"} {
		if s.Properties[key] == nil {
			t.Errorf("the schema does not know %s", key)
		}
	}
}

// FuzzFile: no text makes the parser panic, and every error has a place.
func FuzzFile(f *testing.F) {
	seeds, _ := filepath.Glob("testdata/broken/*.yaml")
	for _, path := range append(seeds, "testdata/example.yaml") {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseFile("f.yaml", data)
		if err != nil {
			for _, e := range err.(Errors) {
				if e.Line < 1 || e.Column < 1 || e.Msg == "" {
					t.Fatalf("%+v", e)
				}
				_ = e.Detail()
			}
			return
		}
		apps := []string{""}
		for _, a := range file.Apps {
			apps = append(apps, a.Name)
		}
		for _, a := range apps {
			p, err := New(Config{File: file, App: a})
			if err != nil {
				continue
			}
			p.Decide(Question{Network: "tcp", Final: true})
		}
	})
}
