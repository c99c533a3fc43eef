package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What PATH makes visible of a home, and what it must not.
func TestToolPaths(t *testing.T) {
	home := t.TempDir()
	for _, dir := range []string{".nvm/versions/node/v20/bin", ".pyenv/shims", ".local/bin", ".local/lib", ".local/share/uv/tools", ".local/share/keyrings",
		".cargo/bin", ".rustup", "tool/bin", "tool/lib", "bin", ".ssh", "go/bin"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := func(dirs ...string) []string {
		for i := range dirs {
			dirs[i] = filepath.Join(home, dirs[i])
		}
		return []string{"PATH=/usr/bin:" + strings.Join(dirs, ":")}
	}
	for _, c := range []struct {
		name string
		env  []string
		want []string
	}{
		{"version managers whole", path(".nvm/versions/node/v20/bin", ".pyenv/shims"), []string{".nvm", ".pyenv"}},
		{"local bin and what it loads", path(".local/bin"), []string{".local/bin", ".local/lib", ".local/share/uv"}},
		{"cargo without its credentials", path(".cargo/bin"), []string{".cargo/bin", ".rustup"}},
		{"a tool's tree", path("tool/bin"), []string{"tool/bin", "tool/lib"}},
		{"bin of the home is not the home", path("bin"), []string{"bin"}},
		{"the home itself is not shown", path(""), nil},
		{"what is not there", path("nothing/bin"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range toolPaths(home, c.env) {
				got = append(got, strings.TrimPrefix(p, home+"/"))
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestSettingsFilters(t *testing.T) {
	for _, c := range []struct {
		name   string
		filter func([]byte) []byte
		in     string
		want   string
	}{
		{"npmrc", filterNpmrc,
			"registry=https://npm.example/\ncafile=/etc/ca.pem\n//npm.example/:_authToken=s3cret\n_auth = s3cret\n//npm.example/:_password=s3cret\n//npm.example/:username=me\nproxy=http://me:pw@p.example\nkeyfile=/x\n",
			"registry=https://npm.example/\ncafile=/etc/ca.pem\n"},
		{"gitconfig", filterGitconfig,
			"[user]\n\tname = Me\n\tsigningkey = ABC\n[credential]\n\thelper = store\n[credential \"https://x\"]\n\tusername = me\n[http]\n\tsslCAInfo = /etc/ca.pem\n\textraheader = AUTHORIZATION: basic s3cret\n[url \"https://tok@git.example/\"]\n\tinsteadOf = git:\n[core]\n\teditor = vi\n",
			"[user]\n\tname = Me\n[http]\n\tsslCAInfo = /etc/ca.pem\n[core]\n\teditor = vi\n"},
		{"pip.conf", filterLines, "[global]\nindex-url = https://u:p@pypi.example/simple\ntimeout = 5\n", "[global]\ntimeout = 5\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(c.filter([]byte(c.in))); got != c.want {
				t.Fatalf("%q\nwant %q", got, c.want)
			}
		})
	}
}
