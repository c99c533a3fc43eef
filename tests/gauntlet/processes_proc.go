//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// procRows look at other processes by way of /proc.
func procRows() []Row {
	procFile := func(name string) func(*Attacker) error {
		return func(a *Attacker) error {
			return a.anyOther(func(pid int) error { return a.read(fmt.Sprintf("/proc/%d/%s", pid, name)) })
		}
	}
	return []Row{
		{
			ID: "processes/environ", Vector: "read the environment of a process of the host", Right: "there is no such process, and init cannot be looked into",
			Source: "security.md 2.5", Prepare: withVictim, Attack: procFile("environ"),
		},
		{
			ID: "processes/cmdline", Vector: "find a secret in the arguments of the host's processes", Right: "none of them is to be seen",
			Source: "security.md 2.5", Prepare: withVictim,
			Attack: func(a *Attacker) error {
				found, err := filepath.Glob("/proc/[0-9]*/cmdline")
				if err != nil {
					return err
				}
				for _, p := range found {
					// Our own arguments have the token too.
					if b, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(b), "sleep-"+a.Token) {
						return nil
					}
				}
				return fmt.Errorf("not in any of %d processes", len(found))
			},
		},
		{
			ID: "processes/memory-file", Vector: "read the memory of a process of the host from /proc/PID/mem", Right: "there is no such process, and init cannot be looked into",
			Source: "security.md 2.5", Prepare: withVictim,
			Attack: func(a *Attacker) error {
				return a.readStacks(func(pid int, at uint64, b []byte) (int, error) {
					f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
					if err != nil {
						return 0, err
					}
					defer f.Close()
					return f.ReadAt(b, int64(at))
				})
			},
		},
		{
			ID: "processes/root-link", Vector: "reach the host's files through /proc/PID/root", Right: "there is no such process, and init cannot be looked into",
			Source: "CDK, amicontained", Prepare: func(s *Stage) error { return errors.Join(withVictim(s), prepareSecret(s)) },
			Attack: func(a *Attacker) error {
				return a.anyOther(func(pid int) error {
					return errors.Join(a.read(fmt.Sprintf("/proc/%d/root%s", pid, a.Args["path"])))
				})
			},
		},
		{
			ID: "processes/fd-link", Vector: "open a file through the descriptors of a process of the host", Right: "there is no such process, and init cannot be looked into",
			Source: "security.md 2.5", Prepare: withVictim, Attack: procFile("fd/4"),
		},
		{
			ID: "processes/exe-link", Vector: "overwrite the sandbox's own binary through /proc/PID/exe", Right: "init cannot be looked into, our own binary is read-only",
			Source: "CVE-2019-5736 (runc)", Prepare: withVictim,
			Attack: func(a *Attacker) error {
				return a.anyOther(func(pid int) error {
					f, err := os.OpenFile(fmt.Sprintf("/proc/%d/exe", pid), os.O_WRONLY, 0)
					if err == nil {
						return f.Close()
					}
					if errors.Is(err, unix.ETXTBSY) {
						return nil // it can be written as soon as it is not running
					}
					return err
				})
			},
		},
	}
}

// influenceRows change something about a process of the host.
func influenceRows() []Row {
	return []Row{
		{
			ID: "processes/oom-score", Vector: "have the kernel kill a process of the host when memory is short", Right: "there is no such process",
			Prepare: withVictim,
			Attack: func(a *Attacker) error {
				return os.WriteFile("/proc/"+a.Args["pid"]+"/oom_score_adj", []byte("1000"), 0)
			},
			Harm: func(s *Stage) bool {
				b, err := os.ReadFile("/proc/" + s.Args["pid"] + "/oom_score_adj")
				return err == nil && strings.TrimSpace(string(b)) == "1000"
			},
		},
		{
			ID: "processes/prlimit", Vector: "take from a process of the host the right to open files", Right: "there is no such process",
			Prepare: withVictim,
			Attack: func(a *Attacker) error {
				var pid int
				fmt.Sscan(a.Args["pid"], &pid)
				return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 3}, nil)
			},
			Harm: func(s *Stage) bool {
				b, err := os.ReadFile("/proc/" + s.Args["pid"] + "/limits")
				return err == nil && strings.Contains(strings.Join(strings.Fields(string(b)), " "), "Max open files 3 3")
			},
		},
	}
}
