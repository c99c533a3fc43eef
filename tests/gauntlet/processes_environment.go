//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// environmentRows are what weir's own environment says, and the program is not to know or to obey.
func environmentRows() []Row {
	variable := func(name, before, after string) (func(*Stage) error, func(*Attacker) error) {
		return func(s *Stage) error {
				s.Env = []string{name + "=" + before + s.Token + after}
				return nil
			}, func(a *Attacker) error {
				return a.contains([]byte(os.Getenv(name)))
			}
	}
	secret, readSecret := variable("AWS_SECRET_ACCESS_KEY", "", "")
	url, readURL := variable("PIP_INDEX_URL", "https://robot:", "@packages.example/simple")
	auth, readAuth := variable("npm_config__auth", "", "")
	agent, _ := variable("UNUSED", "", "")
	return []Row{
		{
			ID: "processes/secret-variable", Vector: "read a credential of the user from the environment", Right: "only listed variables are passed on",
			Source: "security.md 2.5; srt, ToolHive (N(env) in peers.md 3, 15)", Prepare: secret, Attack: readSecret,
		},
		{
			ID: "processes/secret-in-url", Vector: "find a credential inside the value of a variable that is passed on", Right: "values with a credential are withheld",
			Prepare: url, Attack: readURL,
		},
		{
			ID: "processes/secret-in-family", Vector: "find a credential among the settings of a tool that are passed on as a family", Right: "names of credentials are withheld",
			Prepare: auth, Attack: readAuth,
		},
		{
			ID: "processes/environ-of-parents", Vector: "read what the sandbox's own processes were started with", Right: "init cannot be looked into, the others are not to be seen",
			Source: "security.md 2.5", Prepare: agent,
			Attack: func(a *Attacker) error {
				found, err := filepath.Glob("/proc/[0-9]*/environ")
				if err != nil {
					return err
				}
				for _, p := range found {
					if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "UNUSED="+a.Token) {
						return nil
					}
				}
				return errors.New("no process has it")
			},
		},
		{
			ID: "processes/loader-variables", Vector: "have variables of the user run code in every program inside: LD_PRELOAD, NODE_OPTIONS, BASH_ENV", Right: "they are not passed on",
			Prepare: func(s *Stage) error {
				for _, name := range loaders {
					s.Env = append(s.Env, name+"=/nowhere/"+s.Token)
				}
				return nil
			},
			Attack: func(a *Attacker) error {
				for _, name := range loaders {
					if strings.Contains(os.Getenv(name), a.Token) {
						return nil
					}
				}
				return errors.New("none is set")
			},
		},
	}
}

// loaders are variables that make programs load code. LD_PRELOAD itself would make the dynamic linker complain of the test.
var loaders = []string{"LD_AUDIT", "NODE_OPTIONS", "BASH_ENV", "PYTHONSTARTUP", "PERL5OPT", "RUBYOPT", "GIT_SSH_COMMAND"}
