//go:build linux

package gauntlet

import "os"

func fileRows() []Row {
	return []Row{
		{
			ID: "files/read-home", Vector: "read a file of the user that nobody shared", Right: "it is not there",
			Prepare: func(s *Stage) error {
				path, err := s.secret("id_ed25519")
				s.Args["path"] = path
				return err
			},
			Attack: func(a *Attacker) error {
				b, err := os.ReadFile(a.Args["path"])
				if err != nil {
					return err
				}
				return a.contains(b)
			},
		},
	}
}
