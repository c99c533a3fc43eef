//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// socketRows are UNIX sockets of the host that have a path. A path reaches its socket from every network namespace.
func socketRows() []Row {
	return []Row{
		{
			ID: "files/agent-socket", Vector: "ask the user's SSH agent, whose socket is in /tmp", Right: "/tmp is the sandbox's own",
			Source: "security.md 2.5; sandbox-runtime README",
			Prepare: func(s *Stage) error {
				s.Env = []string{"SSH_AUTH_SOCK=" + s.Dir + "/agent.1"}
				return s.listenUnix("unix", s.Dir+"/agent.1")
			},
			Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
		{
			ID: "files/docker-socket", Vector: "have the container engine start a container as root: docker.sock in /run", Right: "/run is the sandbox's own",
			Source: "CVE-2025-32955 (harden-runner); sandbox-runtime README", Alone: true, Lacks: func() string {
				if real, err := filepath.EvalSymlinks("/etc/resolv.conf"); err != nil || strings.HasPrefix(real, "/run/") {
					return "a resolv.conf that does not live in /run"
				}
				return ""
			},
			Prepare: func(s *Stage) error {
				if err := s.mount("none", "/run", "tmpfs", 0); err != nil {
					return err
				}
				return s.listenUnix("unix", "/run/docker.sock")
			},
			Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
	}
}

// shownSocketRows are those that lie where the program may look.
func shownSocketRows() []Row {
	return []Row{
		{
			ID: "files/socket-in-share", Vector: "connect to a socket in a read-only share", Right: "sockets in shares are covered, being read-only does not stop anyone",
			Source: "security.md 2.5; landrun 0.1.17",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("share")
				s.Flags = []string{"--share", dir + ":ro"}
				return errors.Join(err, s.listenUnix("unix", dir+"/service.sock"))
			},
			Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
		{
			ID: "files/socket-behind-link", Vector: "connect to a socket outside through a symbolic link in a share", Right: "the link leads nowhere",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("share")
				s.Flags = []string{"--share", dir}
				err = errors.Join(err, s.listenUnix("unix", s.Dir+"/outside.sock"), os.Symlink(s.Dir+"/outside.sock", dir+"/link"))
				s.Args["socket"] = dir + "/link"
				return err
			},
			Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
		{
			ID: "files/socket-in-home", Vector: "connect to a socket that a program of the host has in the app's home", Right: "sockets of the host are covered in every directory",
			Prepare: func(s *Stage) error {
				home, err := s.keptHome()
				return errors.Join(err, s.listenUnix("unix", home+"/agent.sock"))
			},
			Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
		{
			ID: "files/socket-fs-host", Vector: "connect to a socket of the host with --fs host, where its files are to be seen", Right: "its sockets are covered all the same",
			Prepare: func(s *Stage) error {
				s.Flags = []string{"--fs", "host"}
				// Not in /tmp, which is the sandbox's own in any case.
				if err := s.mount("none", "/mnt", "tmpfs", 0); err != nil {
					return err
				}
				return s.listenUnix("unix", "/mnt/service.sock")
			},
			Alone: true, Attack: (*Attacker).sayToSocket, Harm: Heard,
		},
	}
}

// sayToSocket tells the token to the stage's socket, by its path or by its name in the home.
func (a *Attacker) sayToSocket() error {
	home := filepath.Join(os.Getenv("HOME"), filepath.Base(a.Args["socket"]))
	var errs []error
	for _, p := range []string{a.Args["socket"], home} {
		c, err := dial("unix", p)
		if err == nil {
			defer c.Close()
			return tell(c, a.Token)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
