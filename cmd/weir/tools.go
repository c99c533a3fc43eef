//go:build linux && !client

package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-dev/weir/sandbox"
)

// toolPaths are the paths below the user's home that must be visible, read-only, for the programs on PATH to run: each
// PATH entry there, what a program of that entry loads (its lib, libexec, share beside bin), and the roots of the version
// managers whose shims lead elsewhere. Nothing else of the home is shown, and whatever PATH says it never opens a
// directory with, or above, what people keep secret (see privateDirs), be it by way of a symbolic link.
func toolPaths(home string, env []string) []string {
	var paths []string
	add := func(p string) {
		p = filepath.Clean(p)
		if below(home, p) && !slices.Contains(paths, p) && harmless(home, p) {
			paths = append(paths, p)
		}
	}
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		if !below(home, dir) {
			continue
		}
		if root := managerRoot(home, dir); root != "" {
			add(root)
			continue
		}
		add(dir)
		if parent := filepath.Dir(dir); filepath.Base(dir) == "bin" && parent != home {
			for _, beside := range []string{"lib", "lib64", "libexec", "include", "share"} {
				if parent == filepath.Join(home, ".local") && beside == "share" {
					continue // other programs keep their secrets there; the managers' parts follow
				}
				add(filepath.Join(parent, beside))
			}
		}
		for _, rel := range companions[strings.TrimPrefix(dir, home+"/")] {
			add(filepath.Join(home, rel))
		}
	}
	return outermost(append(paths, caFiles(env)...))
}

// caFiles are the certificate bundles that the environment names, wherever they are.
func caFiles(env []string) []string {
	var files []string
	for _, name := range caFileNames {
		path := filepath.Clean(lookup(env, name))
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && filepath.IsAbs(path) && !inSystemTree(path) {
			files = append(files, path)
		}
	}
	return files
}

// inSystemTree reports whether the sandbox shows the path anyway.
func inSystemTree(path string) bool {
	return slices.ContainsFunc([]string{"/etc", "/usr", "/opt", "/nix", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/dev"}, func(dir string) bool { return below(dir, path) })
}

// privateDirs are where, below the home, credentials, mail, histories and the data of other programs are kept. None of
// them is a directory of programs; some have one in them (.config/composer/vendor/bin), and that may be shown.
var privateDirs = []string{".", ".aws", ".azure", ".cache", ".config", ".config/gcloud", ".config/gh", ".config/weir", ".docker", ".gnupg", ".kube",
	".local", ".local/share", ".local/share/keyrings", ".local/share/weir", ".local/state", ".mozilla", ".password-store", ".ssh", ".thunderbird"}

// harmless reports whether p is there and can be shown: where it leads to is neither one of the private directories, nor
// above one.
func harmless(home, p string) bool {
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		return false
	}
	if resolved, err := filepath.EvalSymlinks(home); err == nil {
		home = resolved
	}
	return !slices.ContainsFunc(privateDirs, func(dir string) bool {
		dir = filepath.Join(home, dir)
		return real == dir || real == "/" || below(real, dir)
	})
}

// wholeHome returns the share that shows all of the user's home, be it by way of a symbolic link, or "".
func wholeHome(home string, shares []sandbox.Share) string {
	if resolved, err := filepath.EvalSymlinks(home); err == nil {
		home = resolved
	}
	for _, s := range shares {
		if real, err := filepath.EvalSymlinks(s.Host); err == nil && (real == home || below(real, home)) {
			return s.Host
		}
	}
	return ""
}

// managers are the roots, below the home, of version managers that keep programs, libraries and shims in one tree.
var managers = []string{".nvm", ".pyenv", ".rbenv", ".asdf", ".volta", ".fnm", ".sdkman", ".deno", ".bun", ".rustup",
	".local/share/mise", ".local/share/uv", ".local/share/pnpm", ".local/share/fnm", "miniconda3", "anaconda3", ".nix-profile"}

// companions are trees that the programs of one PATH entry live in.
var companions = map[string][]string{
	".local/bin": {".local/share/uv", ".local/share/pipx", ".local/pipx", ".local/share/pnpm", ".local/share/mise"},
	".cargo/bin": {".rustup"},
	"go/bin":     {},
}

func managerRoot(home, dir string) string {
	for _, m := range managers {
		if root := filepath.Join(home, m); dir == root || below(root, dir) {
			return root
		}
	}
	return ""
}

// below reports whether path lies strictly under dir; both absolute and clean.
func below(dir, path string) bool {
	return len(path) > len(dir)+1 && strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

// outermost drops paths that lie under another one of the list.
func outermost(paths []string) []string {
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		if len(out) == 0 || !below(out[len(out)-1], p) {
			out = append(out, p)
		}
	}
	return out
}

// settingsFiles are the files of the user's home that tools read their settings from, with everything that looks like a
// credential left out, keyed by path. They are copied, not shared: the original stays out of reach.
func settingsFiles(home string) map[string][]byte {
	files := map[string][]byte{}
	for name, filter := range map[string]func([]byte) []byte{
		".npmrc":               filterNpmrc,
		".gitconfig":           filterGitconfig,
		".config/git/config":   filterGitconfig,
		".config/pip/pip.conf": filterLines,
		".config/uv/uv.toml":   filterLines,
		".config/npm/npmrc":    filterNpmrc,
		".condarc":             filterLines,
		".config/git/ignore":   func(b []byte) []byte { return b },
		".cargo/config.toml":   filterLines,
		".config/go/env":       filterLines,
	} {
		path := filepath.Join(home, name)
		if b, err := os.ReadFile(path); err == nil && len(b) <= 1<<20 {
			files[path] = filter(b)
		}
	}
	return files
}

// filterNpmrc drops npm's credentials: every key that ends in one of its auth names, for any scope or host, and lines
// whose value carries a user in a URL.
func filterNpmrc(b []byte) []byte {
	return keepLines(b, func(line string) bool {
		key, value, _ := strings.Cut(line, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		for _, secret := range []string{"_authtoken", "_auth", "_password", "username", "certfile", "keyfile", "cert", "key", "email"} {
			if key == secret || strings.HasSuffix(key, ":"+secret) || strings.HasSuffix(key, "/"+secret) {
				return false
			}
		}
		return !carriesSecret(key, strings.TrimSpace(value))
	})
}

// filterLines drops lines that name a credential or carry one in a URL. INI, TOML and YAML are read alike: a URL counts
// wherever it stands in its line, in a list or in the continuation of another line.
func filterLines(b []byte) []byte {
	return keepLines(b, func(line string) bool {
		key, value, _ := strings.Cut(line, "=")
		return !carriesSecret(strings.TrimSpace(key), value) && !urlCredential.MatchString(line)
	})
}

// filterGitconfig drops whole sections that lead to credentials or run programs of the host, and lines as filterLines
// does. A variable may follow its section's header on the same line, and its value may go on in the next one.
func filterGitconfig(b []byte) []byte {
	dropSection, dropNext := false, false
	return keepLines(b, func(line string) bool {
		goesOn := strings.HasSuffix(line, `\`)
		if dropNext {
			dropNext = goesOn
			return false
		}
		variable := strings.ToLower(strings.TrimSpace(line))
		if name, ok := strings.CutPrefix(variable, "["); ok {
			dropSection = slices.ContainsFunc([]string{"credential", "sendemail", "imap", "gpg", "include", "http \"", "url \""}, func(s string) bool {
				return strings.HasPrefix(name, s)
			}) && carriesGitSecret(name)
			variable = strings.TrimSpace(name[strings.LastIndexByte(name, ']')+1:])
		}
		key, value, _ := strings.Cut(variable, "=")
		secret := slices.ContainsFunc([]string{"extraheader", "signingkey", "helper"}, func(s string) bool { return strings.HasPrefix(key, s) })
		if keep := !dropSection && !secret && !carriesSecret(strings.TrimSpace(key), value); keep {
			return true
		}
		dropNext = goesOn
		return false
	})
}

// carriesGitSecret tells the sections of a git configuration that are dropped whole: an [http "url"] or [url "..."] section
// is wanted (insteadOf, sslCAInfo) unless its own header carries a user.
func carriesGitSecret(header string) bool {
	if strings.HasPrefix(header, "http") || strings.HasPrefix(header, "url") {
		return strings.Contains(header, "@")
	}
	return true
}

func keepLines(b []byte, keep func(string) bool) []byte {
	var out bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if keep(lines.Text()) {
			out.Write(lines.Bytes())
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// lookup returns the value of name in an environment list, the last one as exec does.
func lookup(env []string, name string) string {
	value := ""
	for _, kv := range env {
		if n, v, ok := strings.Cut(kv, "="); ok && n == name {
			value = v
		}
	}
	return value
}
