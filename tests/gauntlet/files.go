//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
)

func fileRows() []Row {
	return slices.Concat(secretRows(), socketRows(), shownSocketRows(), writeRows(), readOnlyRows(), boundaryRows(), homeRows(), ownRows(), plantRows())
}

// dirs makes directories below the stage's and returns the path of the last.
func (s *Stage) dirs(names ...string) (path string, err error) {
	for _, name := range names {
		path = filepath.Join(s.Dir, name)
		err = errors.Join(err, os.MkdirAll(path, 0o755))
	}
	return path, err
}

// keptHome is where weir keeps what the program of a run without a home of its own would find in HOME.
func (s *Stage) keptHome() (string, error) {
	if s.Weir == "" {
		return s.dirs("home")
	}
	return s.dirs("data/weir/apps/gauntlet/home")
}

// secretRows are files that the program is not to read.
func secretRows() []Row {
	return []Row{
		{
			ID: "files/read-home", Vector: "read a file of the user that nobody shared", Right: "it is not there",
			Source: "security.md 2.5", Prepare: prepareSecret,
			Attack: func(a *Attacker) error { return a.read(a.Args["path"]) },
		},
		{
			ID: "files/npmrc", Vector: "read the token in .npmrc, a settings file that tools need", Right: "what looks like a credential is left out of the copy",
			Prepare: func(s *Stage) error { return s.inHome(".npmrc", "//packages.example/:_authToken="+s.Token+"\n") },
			Attack:  func(a *Attacker) error { return a.read(os.Getenv("HOME") + "/.npmrc") },
		},
		{
			ID: "files/secrets-on-path", Vector: "read a key from a directory that the user has on PATH", Right: "directories of secrets are never shown for being on PATH",
			Prepare: func(s *Stage) error {
				s.Env = []string{"PATH=" + os.Getenv("PATH") + ":" + s.Dir + "/home/.ssh"}
				return s.inHome(".ssh/id_ed25519", s.Token)
			},
			Attack: func(a *Attacker) error { return a.read(os.Getenv("HOME") + "/.ssh/id_ed25519") },
		},
		{
			ID: "files/shadow", Vector: "read the host's password hashes as uid 0", Right: "what only root may read is hidden",
			Lacks: needsRoot,
			Attack: func(*Attacker) error {
				b, err := os.ReadFile("/etc/shadow")
				if err == nil && len(b) == 0 {
					err = errors.New("empty")
				}
				return err
			},
		},
		{
			ID: "files/dev-shm", Vector: "read a file in the host's /dev/shm, the shared memory of its programs", Right: "/dev/shm is the sandbox's own",
			Prepare: func(s *Stage) error {
				s.Args["path"] = "/dev/shm/" + s.Token
				s.Defer(func() { os.Remove(s.Args["path"]) })
				return os.WriteFile(s.Args["path"], []byte(s.Token), 0o600)
			},
			Attack: func(a *Attacker) error { return a.read(a.Args["path"]) },
		},
		{
			ID: "files/other-app", Vector: "read what another app keeps in its home", Right: "each app has its own, and sees no other",
			Prepare: func(s *Stage) error { return s.otherApp() },
			Attack:  func(a *Attacker) error { return a.read(a.Args["path"]) },
		},
	}
}

// inHome writes a file of the user's real home.
func (s *Stage) inHome(name, text string) error {
	path := filepath.Join(s.Dir, "home", name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
}

// otherApp leaves a secret in the home that weir keeps for another app.
func (s *Stage) otherApp() error {
	dir, err := s.dirs("data/weir/apps/other/home")
	s.Args["path"] = filepath.Join(dir, "secret")
	return errors.Join(err, os.WriteFile(s.Args["path"], []byte(s.Token), 0o600))
}
