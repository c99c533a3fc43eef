//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
)

// plantRows are ways to the policy and the log of later runs: weir's own directories, or a link that leads to such a file,
// lie in a writable share.
func plantRows() []Row {
	configInShare := func(made string) func(*Stage) error {
		return func(s *Stage) error {
			_, err := s.dirs("share" + made)
			share := s.Dir + "/share"
			s.Args["config"], s.Flags, s.Env = share+"/dot/config", []string{"--share", share}, []string{"XDG_CONFIG_HOME=" + share + "/dot/config"}
			return err
		}
	}
	planted := func(s *Stage) bool { return hasToken(s, s.Args["config"]+"/weir/weir.yaml") }
	plant := func(a *Attacker) error {
		return errors.Join(os.MkdirAll(a.Args["config"]+"/weir", 0o755), a.overwrite(a.Args["config"]+"/weir/weir.yaml", os.O_CREATE))
	}
	return []Row{
		{
			ID: "files/policy-to-be", Vector: "make weir's configuration, which is not there yet, in a share, for the next run to obey", Right: "weir's own directories are hidden in every share, there or not",
			Prepare: configInShare(""), Attack: plant, Harm: planted,
		},
		{
			ID: "files/policy-moved-away", Vector: "move away a directory of a share that weir's configuration is in, and make another", Right: "what leads to a covered directory cannot be moved",
			Prepare: configInShare("/dot/config/weir"),
			Attack: func(a *Attacker) error {
				dot := filepath.Dir(a.Args["config"])
				if err := os.Rename(dot, dot+".old"); err != nil {
					return err
				}
				return plant(a)
			},
			Harm: planted,
		},
		{
			ID: "files/policy-by-link", Vector: "rewrite the policy in a writable share, which was named by a link from elsewhere", Right: "it is read-only there, whatever it was called",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("conf", "share")
				s.Args["policy"] = dir + "/weir.yaml"
				s.Flags = []string{"--share", dir, "-f", s.Dir + "/conf/link.yaml"}
				return errors.Join(err, os.Symlink(s.Args["policy"], s.Dir+"/conf/link.yaml"),
					os.WriteFile(s.Args["policy"], []byte("version: 1\napps:\n  gauntlet:\n    allow: [shop.example]\n"), 0o644))
			},
			Attack: func(a *Attacker) error { return a.overwrite(a.Args["policy"], os.O_TRUNC) },
			Harm:   func(s *Stage) bool { return hasToken(s, s.Args["policy"]) },
		},
		{
			ID: "files/learned-by-link", Vector: "turn a link in a share, by which --learn was told its directory, to a directory of the user's", Right: "weir refuses to start",
			Refused: "where the program could change it",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("victim", "out", "share")
				s.Args["link"], s.Args["victim"] = dir+"/link", s.Dir+"/victim"
				s.Flags = []string{"--share", dir, "--learn", dir + "/link/learned.yaml"}
				return errors.Join(err, os.Symlink(s.Dir+"/out", s.Args["link"]))
			},
			Attack: func(a *Attacker) error {
				return errors.Join(os.Remove(a.Args["link"]), os.Symlink(a.Args["victim"], a.Args["link"]))
			},
			Harm: func(s *Stage) bool {
				to, err := os.Readlink(s.Args["link"])
				return err != nil || to != s.Dir+"/out"
			},
		},
		{
			ID: "files/share-by-link", Vector: "leave a link in a shared directory, in the place of a directory that is the next run's share", Right: "weir follows no link that lies in a writable share",
			Source: "CVE-2021-30465 (runc)", Refused: "which the program could have made",
			Prepare: func(s *Stage) error {
				if err := prepareSecret(s); err != nil {
					return err
				}
				dir, err := s.dirs("share")
				s.Args["path"] = dir + "/data/secret"
				s.Flags = []string{"--share", dir, "--share", dir + "/data:/data"}
				return errors.Join(err, os.Symlink(s.Dir, dir+"/data"))
			},
			Attack: func(a *Attacker) error {
				if err := a.read("/data/secret"); err == nil {
					return nil
				}
				return a.read(a.Args["path"])
			},
		},
	}
}
