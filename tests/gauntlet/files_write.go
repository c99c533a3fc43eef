//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// writeRows are files that the program is not to change, or make.
func writeRows() []Row {
	exists := func(name string) func(*Stage) bool {
		return func(s *Stage) bool {
			_, err := os.Stat(filepath.Join(s.Dir, name))
			return err == nil
		}
	}
	return []Row{
		{
			ID: "files/system-directory", Vector: "install something in a system directory", Right: "system directories are read-only",
			Source: "security.md 2.5", Alone: true, Lacks: func() string {
				if _, err := os.Stat("/opt"); err != nil {
					return "/opt"
				}
				return ""
			},
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("opt")
				return errors.Join(err, s.mount(dir, "/opt", "", unix.MS_BIND))
			},
			Attack: func(a *Attacker) error { return a.overwrite("/opt/planted", os.O_CREATE) },
			Harm:   exists("opt/planted"),
		},
		{
			ID: "files/program-on-path", Vector: "plant a program in a directory of the user's PATH", Right: "such directories are read-only",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("home/bin")
				s.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
				return err
			},
			Attack: func(a *Attacker) error { return a.overwrite(os.Getenv("HOME")+"/bin/git", os.O_CREATE) },
			Harm:   exists("home/bin/git"),
		},
		{
			ID: "files/host-tmp", Vector: "plant a file in the host's /tmp, where other programs will take it", Right: "/tmp is the sandbox's own",
			Prepare: func(s *Stage) error {
				s.Defer(func() { os.Remove("/tmp/" + s.Token) })
				return nil
			},
			Attack: func(a *Attacker) error { return a.overwrite("/tmp/"+a.Token, os.O_CREATE) },
			Harm: func(s *Stage) bool {
				_, err := os.Stat("/tmp/" + s.Token)
				return err == nil
			},
		},
		{
			ID: "files/core-dump", Vector: "have the kernel write its memory, secrets included, to a file", Right: "no core dumps, and no way to ask for them",
			Lacks: func() string {
				var lim unix.Rlimit
				if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || pattern[0] == '|' || unix.Getrlimit(unix.RLIMIT_CORE, &lim) != nil || lim.Max == 0 {
					return "core dumps into files"
				}
				return ""
			},
			Attack: func(a *Attacker) error {
				if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
					return err
				}
				p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "kill -SEGV $$"}, &os.ProcAttr{})
				if err != nil {
					return err
				}
				state, err := p.Wait()
				if err == nil && !state.Sys().(syscall.WaitStatus).CoreDump() {
					err = errors.New("no core was dumped")
				}
				return err
			},
		},
	}
}
