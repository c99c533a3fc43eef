package clientconfig

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unsaved makes a file and the change that wrapping it would be.
func unsaved(t *testing.T) (dir, path string, change *Change) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "mcp.json")
	if err := errors.Join(os.WriteFile(path, []byte(beforeSave), 0o604), os.Chmod(path, 0o604)); err != nil {
		t.Fatal(err)
	}
	c, err := Find("cursor")
	if err != nil {
		t.Fatal(err)
	}
	if change, err = Wrap(path, []byte(beforeSave), c, Options{Weir: "weir"}); err != nil {
		t.Fatal(err)
	}
	return dir, path, change
}

const beforeSave = `{"mcpServers":{"a":{"command":"npx"}}}`

func TestSave(t *testing.T) {
	t.Run("modes", func(t *testing.T) {
		_, path, change := unsaved(t)
		backup, err := SaveWrapped(change)
		if err != nil {
			t.Fatal(err)
		}
		checkFile(t, path, string(change.After), 0o604)
		checkFile(t, backup, beforeSave, 0o600)
	})
	t.Run("symbolic link", func(t *testing.T) {
		dir, path, change := unsaved(t)
		link := filepath.Join(dir, "link", "mcp.json")
		if err := errors.Join(os.Mkdir(filepath.Dir(link), 0o755), os.Symlink("../mcp.json", link)); err != nil {
			t.Fatal(err)
		}
		change.Path = link
		backup, err := SaveWrapped(change)
		if err != nil {
			t.Fatal(err)
		}
		if dest, err := os.Readlink(link); err != nil || dest != "../mcp.json" {
			t.Errorf("link to %q, %v", dest, err)
		}
		if filepath.Dir(backup) != filepath.Dir(link) {
			t.Errorf("backup at %s", backup)
		}
		checkFile(t, path, string(change.After), 0o604)
	})
	t.Run("changed meanwhile", func(t *testing.T) {
		dir, path, change := unsaved(t)
		if err := os.WriteFile(path, []byte("{}"), 0o604); err != nil {
			t.Fatal(err)
		}
		if _, err := SaveWrapped(change); !errors.Is(err, ErrChanged) {
			t.Errorf("error %v", err)
		}
		if err := SaveUnwrapped(change); !errors.Is(err, ErrChanged) {
			t.Errorf("error %v", err)
		}
		checkFile(t, path, "{}", 0o604)
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("files left: %v", left)
		}
	})
	t.Run("nothing to change", func(t *testing.T) {
		dir, _, change := unsaved(t)
		change.After = change.Before
		if backup, err := SaveWrapped(change); err != nil || backup != "" {
			t.Errorf("%q, %v", backup, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("files left: %v", left)
		}
	})
	t.Run("file gone", func(t *testing.T) {
		_, path, change := unsaved(t)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := SaveWrapped(change); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
		if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
}

func checkFile(t *testing.T, path, want string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Errorf("%s: %q, %v; want %q", path, b, err, want)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm() != mode {
		t.Errorf("%s: mode %v, want %v", path, info.Mode(), mode)
	}
}

// A backup whose content was replaced by something that is no configuration is not put back.
func TestBrokenBackup(t *testing.T) {
	c, _ := Find("cursor")
	path := filepath.Join(t.TempDir(), "mcp.json")
	src := []byte(`{"mcpServers":{"a":{"command":"weir","args":["run","--","npx"]}}}`)
	if err := os.WriteFile(backupPath(path, src), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	change, err := Unwrap(path, src, c, Options{Weir: "weir"})
	if err != nil || string(change.After) != `{"mcpServers":{"a":{"command":"npx","args":[]}}}` {
		t.Errorf("%v: %s", err, change.After)
	}
}

func TestPaths(t *testing.T) {
	tests := []struct {
		client, goos string
		env          map[string]string
		want         string
	}{
		{"claude-desktop", "linux", nil, "/h/.config/Claude/claude_desktop_config.json /h/.config/claude/claude_desktop_config.json"},
		{"claude-desktop", "darwin", nil, "/h/Library/Application Support/Claude/claude_desktop_config.json"},
		{"claude-desktop", "linux", map[string]string{"XDG_CONFIG_HOME": "/x"}, "/x/Claude/claude_desktop_config.json /x/claude/claude_desktop_config.json"},
		{"claude-code", "linux", map[string]string{"XDG_CONFIG_HOME": "/x"}, "/h/.claude.json"},
		{"claude-code", "linux", map[string]string{"CLAUDE_CONFIG_DIR": "/c"}, "/c/.claude.json"},
		{"cursor", "darwin", nil, "/h/.cursor/mcp.json"},
		{"vscode", "linux", map[string]string{"XDG_CONFIG_HOME": "relative"}, "/h/.config/Code/User/mcp.json /h/.config/Code/User/settings.json " +
			"/h/.config/Code - Insiders/User/mcp.json /h/.config/Code - Insiders/User/settings.json " +
			"/h/.config/VSCodium/User/mcp.json /h/.config/VSCodium/User/settings.json"},
	}
	for _, test := range tests {
		t.Run(test.client+" "+test.goos, func(t *testing.T) {
			c, err := Find(test.client)
			if err != nil {
				t.Fatal(err)
			}
			got := c.Paths(Host{Home: "/h", GOOS: test.goos, Getenv: func(k string) string { return test.env[k] }})
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
		})
	}
	if _, err := Find("emacs"); err == nil || !strings.Contains(err.Error(), "claude-code, claude-desktop, cursor, vscode") {
		t.Errorf("error %v", err)
	}
}
