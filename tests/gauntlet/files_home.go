//go:build linux

package gauntlet

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// homeRows are traps that an earlier run left in the app's home, which is kept, for the next start of weir.
func homeRows() []Row {
	victim := func(s *Stage) (string, error) {
		path := filepath.Join(s.Dir, "victim")
		return path, os.WriteFile(path, []byte("of the host\n"), 0o644)
	}
	return []Row{
		{
			ID: "files/planted-link", Vector: "leave a symbolic link where weir writes a settings file at the next start", Right: "weir follows no link in the home",
			Source: "security.md 2.5",
			Prepare: func(s *Stage) error {
				if s.Weir != "" {
					if err := s.inHome(".npmrc", "fund=false\n"); err != nil {
						return err
					}
				}
				to, err := victim(s)
				home, err2 := s.keptHome()
				return errors.Join(err, err2, os.Symlink(to, home+"/.npmrc"))
			},
			Attack: func(a *Attacker) error { return a.overwrite(os.Getenv("HOME")+"/.npmrc", os.O_APPEND) },
			Harm: func(s *Stage) bool {
				b, err := os.ReadFile(filepath.Join(s.Dir, "victim"))
				return err != nil || !bytes.Equal(b, []byte("of the host\n"))
			},
		},
		{
			ID: "files/planted-mount-point", Vector: "leave a symbolic link where weir makes a mount point at the next start", Right: "weir follows no link in the home, and refuses",
			Source:  "CVE-2021-30465 (runc)",
			Refused: "home/deep",
			Prepare: func(s *Stage) error {
				share, err := s.dirs("victims", "share")
				home, err2 := s.keptHome()
				s.Flags = []string{"--share", share + ":" + s.Dir + "/home/deep/point"}
				return errors.Join(err, err2, os.Symlink(s.Dir+"/victims", home+"/deep"))
			},
			Attack: func(a *Attacker) error { return os.Mkdir(os.Getenv("HOME")+"/deep/point", 0o755) },
			Harm:   func(s *Stage) bool { return exists(s.Dir + "/victims/point") },
		},
		{
			ID: "files/planted-fifo", Vector: "leave a FIFO in place of a settings file, on which the next start would wait for ever", Right: "the file is made anew",
			Prepare: func(s *Stage) error {
				if s.Weir != "" {
					if err := s.inHome(".npmrc", "fund=false\n"); err != nil {
						return err
					}
				}
				home, err := s.keptHome()
				return errors.Join(err, unix.Mkfifo(home+"/.npmrc", 0o600))
			},
			Attack: func(a *Attacker) error {
				read := make(chan error, 1)
				go func() {
					_, err := os.ReadFile(os.Getenv("HOME") + "/.npmrc")
					read <- err
				}()
				select {
				case err := <-read:
					return errors.Join(errors.New("nobody has to wait"), err)
				case <-time.After(afterlife):
					return nil
				}
			},
		},
	}
}

// ownRows are weir's own files: its rules, its log, what it keeps.
func ownRows() []Row {
	return []Row{
		{
			ID: "files/policy-in-share", Vector: "rewrite the policy file, which lies in a writable share, or put another in its place", Right: "it is read-only there, and cannot be moved away",
			Source: "security.md 0.7",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("share/conf")
				s.Args["conf"] = dir
				s.Flags = []string{"--share", filepath.Dir(dir), "-f", dir + "/weir.yaml"}
				return errors.Join(err, os.WriteFile(dir+"/weir.yaml", []byte("version: 1\napps:\n  gauntlet:\n    allow: [shop.example]\n"), 0o644))
			},
			Attack: func(a *Attacker) error {
				conf := a.Args["conf"]
				direct := a.overwrite(conf+"/weir.yaml", os.O_TRUNC)
				if direct == nil {
					return nil
				}
				other := conf + "/other"
				replaced := errors.Join(a.overwrite(other, os.O_CREATE), os.Rename(other, conf+"/weir.yaml"))
				if replaced == nil {
					return nil
				}
				moved := errors.Join(os.Rename(conf, conf+".old"), os.Mkdir(conf, 0o755), a.overwrite(conf+"/weir.yaml", os.O_CREATE))
				return errors.Join(direct, replaced, moved)
			},
			Harm: func(s *Stage) bool { return hasToken(s, s.Args["conf"]+"/weir.yaml") },
		},
		{
			ID: "files/log-in-share", Vector: "rewrite the event log, which lies in a writable share", Right: "weir refuses to start",
			Refused: "where the program could change it",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("share")
				s.Args["log"] = dir + "/events.jsonl"
				s.Flags = []string{"--share", dir, "--events", s.Args["log"]}
				return errors.Join(err, os.WriteFile(s.Args["log"], nil, 0o644))
			},
			Attack: func(a *Attacker) error { return a.overwrite(a.Args["log"], os.O_TRUNC) },
			Harm:   func(s *Stage) bool { return hasLine(s, s.Args["log"]) },
		},
		{
			ID: "files/own-directories", Vector: "read what weir keeps of other apps through a share that contains it", Right: "weir's own directories are hidden in every share",
			Prepare: func(s *Stage) error {
				s.Flags = []string{"--share", s.Dir + "/data"}
				return s.otherApp()
			},
			Attack: func(a *Attacker) error { return a.read(a.Args["path"]) },
		},
		{
			ID: "files/own-directories-fs-host", Vector: "read what weir keeps of other apps with --fs host", Right: "weir's own directories are hidden from that too",
			Alone: true,
			Prepare: func(s *Stage) error {
				s.Flags = []string{"--fs", "host"}
				if err := s.otherApp(); err != nil {
					return err
				}
				// Seen at a place that is not the sandbox's own /tmp.
				if err := s.mount(s.Dir+"/data", "/mnt", "", unix.MS_BIND); err != nil {
					return err
				}
				s.Args["path"] = "/mnt/weir/apps/other/home/secret"
				s.Env = []string{"XDG_DATA_HOME=/mnt"}
				return nil
			},
			Attack: func(a *Attacker) error { return a.read(a.Args["path"]) },
		},
	}
}
