//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// bookRows go for the log itself, and for what is made of it.
func bookRows() []Row {
	return []Row{
		{
			ID: "logs/through-a-descriptor", Vector: "write events to the log by a descriptor that was inherited", Right: "there is none",
			Source: "security.md 2.5",
			Prepare: func(s *Stage) error {
				f, err := os.OpenFile(filepath.Join(s.Dir, eventsName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				s.Defer(func() { f.Close() })
				s.Files, s.Flags = []*os.File{f}, []string{"--events", "fd:3"}
				return nil
			},
			Harm: func(s *Stage) bool {
				log, _ := os.ReadFile(filepath.Join(s.Dir, eventsName))
				return hasForged(string(log), s.Token)
			},
			Record: []string{"sandbox-start mode=enforce"},
			Attack: func(a *Attacker) error {
				for fd := 3; fd < 64; fd++ {
					syscall.Write(fd, []byte(forgedLine(a.Token)+"\n"))
				}
				return nil
			},
		},
		{
			ID: "logs/through-stderr", Vector: "print events, for whom reads log and output together", Right: "the log is apart from what the program says",
			Harm: func(s *Stage) bool {
				if s.Weir != "" {
					return hasForged(s.Events, s.Token)
				}
				return hasForged(s.Stderr, s.Token)
			},
			Attack: func(a *Attacker) error {
				_, err := fmt.Fprintln(os.Stderr, forgedLine(a.Token))
				return err
			},
		},
		inShare("logs/truncate", "truncate the log, which lies in a directory that the program may write to", func(s *Stage) string { return s.Args["share"] }),
		inShare("logs/truncate-by-link", "the same where the log's path is outside and a symbolic link leads there", func(s *Stage) string { return filepath.Join(s.Dir, "link") }),
		{
			ID: "logs/vanish", Vector: "say it and be gone, before anybody has looked who it was", Right: "the flow is in the log all the same",
			Rules: shopEcho, Record: []string{"network-connect verdict=allow dest_port=7", "network-close bytes_sent=17"},
			Harm: func(s *Stage) bool { return Heard(s) && !s.HasEvent("network-connect dest_port=7") },
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", at(Shop, 7))
				if err != nil {
					return err
				}
				if _, err := c.Write([]byte(a.Token)); err != nil {
					return err
				}
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			},
		},
	}
}

// learned is the rule that an attacker would like to be in a policy.
func learned(token string) string { return "forged-" + token + ".example" }

// hostileNames end their line, or their flow sequence, or their scalar, and begin a rule of the attacker's.
func hostileNames(token string) []string {
	return []string{"x.example\n      - " + learned(token) + "\n", "x\", \"" + learned(token), "x]\n      - " + learned(token) + " #"}
}

// policyRows go for the policy that is made of what was seen.
func policyRows() []Row {
	return []Row{
		{
			ID: "logs/rules-in-learned-names", Vector: "names that become rules in the policy that --learn writes", Right: "names that are no names are left out",
			Rules: []string{"--mode", "audit", "--learn", "{learn}"},
			Prepare: func(s *Stage) error {
				s.Args["learn"] = filepath.Join(s.Dir, "learned.yaml")
				return nil
			},
			Harm: func(s *Stage) bool {
				text, _ := os.ReadFile(s.Args["learn"])
				return hasRule(s, string(text), learned(s.Token))
			},
			Check: func(s *Stage) error {
				out, err := exec.Command(s.Weir, "policy", "check", s.Args["learn"]).CombinedOutput()
				if err != nil {
					return fmt.Errorf("what was learned is no policy: %s", out)
				}
				return nil
			},
			Attack: func(a *Attacker) error { return a.sayNames(hostileNames(a.Token)) },
		},
		{
			ID: "logs/rules-from-the-log", Vector: "the same names, and policy suggest over the log", Right: "names that are no names are left out",
			Rules: []string{"--mode", "audit"}, Record: []string{"dns-query hostname=*"},
			Harm: func(s *Stage) bool {
				if s.Weir == "" {
					return hasRule(s, "", learned(s.Token))
				}
				out, err := exec.Command(s.Weir, "policy", "suggest", filepath.Join(s.Dir, eventsName)).CombinedOutput()
				return err != nil || hasRule(s, string(out), learned(s.Token))
			},
			Attack: func(a *Attacker) error { return a.sayNames(hostileNames(a.Token)) },
		},
	}
}

// inShare is an attack on a log that somebody put where the program may write: weir refuses to start like that.
func inShare(id, vector string, logDir func(*Stage) string) Row {
	return Row{
		ID: id, Vector: vector, Right: "weir does not start with such a log", Refused: "where the program could change it",
		Rules: []string{"--mode", "enforce", "--share", "{share}:/shared", "--events", "{log}"},
		Prepare: func(s *Stage) error {
			s.Args["share"] = filepath.Join(s.Dir, "share")
			if err := errors.Join(os.Mkdir(s.Args["share"], 0o777), os.Symlink(s.Args["share"], filepath.Join(s.Dir, "link"))); err != nil {
				return err
			}
			s.Args["log"] = filepath.Join(logDir(s), eventsName)
			return os.WriteFile(s.Args["log"], []byte(forgedLine(s.Token)), 0o666)
		},
		Harm: func(s *Stage) bool {
			log, err := os.ReadFile(s.Args["log"])
			return err == nil && !hasForged(string(log), s.Token)
		},
		Attack: func(a *Attacker) error {
			if err := os.Truncate("/shared/"+eventsName, 0); err == nil {
				return nil
			}
			return os.Truncate(a.Args["log"], 0)
		},
	}
}

// hasRule reports whether a policy allows the name; without weir, one that was made by putting the names into a list.
func hasRule(s *Stage, policy, name string) bool {
	if s.Weir == "" {
		policy = "      - " + strings.Join(s.World.collectedWith(s.Token), "\n      - ")
	}
	for line := range strings.Lines(policy) {
		if strings.Trim(strings.TrimSpace(line), `-"' #`) == name {
			return true
		}
	}
	return false
}

// sayNames says each of the names in a hello and in a question.
func (a *Attacker) sayNames(names []string) error {
	for _, n := range names {
		a.tellTLS(at(Shop, 443), n)
		if err := a.askRaw(n[:min(len(n), 63)], "example"); err != nil {
			return err
		}
	}
	return nil
}
