//go:build linux && !client

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
		".cargo/bin", ".rustup", "tool/bin", "tool/lib", "bin", ".ssh", "go/bin", ".config/composer/vendor/bin", ".aws"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"keys": ".ssh", "self": ".", "up": "..", "programs": "bin"} {
		if err := os.Symlink(filepath.Join(home, to), filepath.Join(home, link)); err != nil {
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
		{"where secrets are kept", path(".ssh", ".aws", ".config", ".local", ".local/share", "bin/../.ssh"), nil},
		{"a directory of programs in such a place", path(".config/composer/vendor/bin"), []string{".config/composer/vendor/bin"}},
		{"links to such places", path("keys", "self", "up"), nil},
		{"a link to programs", path("programs"), []string{"programs"}},
		{"a certificate that is the home", []string{"SSL_CERT_FILE=" + home + "/self"}, nil},
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
		{"gitconfig, a variable beside its header", filterGitconfig,
			"[http] extraHeader = Authorization: Bearer s3cret\n[user] name = Me\n", "[user] name = Me\n"},
		{"gitconfig, a value on two lines", filterGitconfig, "[http]\n\textraHeader = \\\nAuthorization: \\\ns3cret\n\tsslVerify = true\n", "[http]\n\tsslVerify = true\n"},
		{"gitconfig, mail", filterGitconfig, "[imap]\n\tpass = s3cret\n[core]\n\tbare = false\n", "[core]\n\tbare = false\n"},
		{"gitconfig, rewritten URLs", filterGitconfig, "[url \"https://git.example/\"]\n\tinsteadOf = git@git.example:\n", "[url \"https://git.example/\"]\n\tinsteadOf = git@git.example:\n"},
		{"npmrc, a URL that does not parse", filterNpmrc, "proxy=http://me:p%zz@p.example\n@scope:registry=https://npm.example/\n", "@scope:registry=https://npm.example/\n"},
		{"pip.conf", filterLines, "[global]\nindex-url = https://u:p@pypi.example/simple\ntimeout = 5\n", "[global]\ntimeout = 5\n"},
		{"pip.conf, a list", filterLines, "extra-index-url =\n    https://u:p@a.example/simple\n    https://b.example/simple\n", "extra-index-url =\n    https://b.example/simple\n"},
		{"uv.toml, an array", filterLines, "extra-index-url = [\"https://u:p@a.example/simple\"]\noffline = false\n", "offline = false\n"},
		{"condarc", filterLines, "channels:\n  - https://u:p@a.example/c\n  - https://b.example/t/ab-123/c\n  - https://b.example/c\nproxy_servers:\n  http: http://u:p@p.example\n",
			"channels:\n  - https://b.example/c\nproxy_servers:\n"},
		{"cargo, a proxy without a scheme", filterLines, "[http]\nproxy = \"u:p@p.example:80\"\ntimeout = 5\n", "[http]\ntimeout = 5\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(c.filter([]byte(c.in))); got != c.want {
				t.Fatalf("%q\nwant %q", got, c.want)
			}
		})
	}
}
