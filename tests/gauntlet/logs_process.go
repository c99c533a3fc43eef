//go:build linux

package gauntlet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// processTextRows say the text as what the kernel knows of a process: its file, its arguments.
func processTextRows() []Row {
	name := func(token string) string { return "x\",\"forged\":\"" + token }
	secrets := func(token string) []string {
		secret := mirrored(token)
		return []string{"--password", secret, "--api-key=" + secret, "https://user:" + secret + "@shop.example/", "GITHUB_TOKEN=" + secret, "Authorization: Bearer " + secret}
	}
	return []Row{
		{
			ID: "logs/program-name", Vector: "a program whose file name adds a field to the event", Right: "it stays a string",
			Source: "security.md 2.6", Rules: byAddress, Prepare: speaking, Harm: forged, Record: shopRecorded("9000"),
			Attack: func(a *Attacker) error {
				if a.Args["act"] == "second" {
					exe, err := os.Readlink("/proc/self/exe")
					return errors.Join(err, a.report(filepath.Base(exe)))
				}
				path, err := copyTo(name(a.Token))
				if err != nil {
					return err
				}
				defer os.RemoveAll(filepath.Dir(path))
				return a.again(path)
			},
		},
		{
			ID: "logs/line-in-arguments", Vector: "an argument with a line break and an event", Right: "one event is one line",
			Rules: byAddress, Prepare: speaking, Harm: forged, Record: shopRecorded("9000"),
			Attack: func(a *Attacker) error {
				if a.Args["act"] == "second" {
					return a.reportArguments()
				}
				return a.again("", "x\"}\n"+forgedLine(a.Token)+"\n")
			},
		},
		{
			ID: "logs/endless-arguments", Vector: "100 KiB of arguments, so that the reader's line buffer overflows", Right: "a line has at most 64 KiB, and says what is missing",
			Source: "security.md 2.6", Rules: byAddress, Record: shopRecorded("9000"),
			Harm: func(s *Stage) bool {
				for line := range strings.Lines(s.written()) {
					if len(line) > 64<<10 {
						return true
					}
				}
				return false
			},
			Attack: func(a *Attacker) error {
				if a.Args["act"] == "second" {
					return a.reportArguments()
				}
				return a.again("", strings.Repeat(a.Token, 6_000))
			},
		},
		{
			ID: "logs/secret-in-arguments", Vector: "a password, a key, a token in the arguments of who opens a flow", Right: "the log masks them",
			Source: "contract.md 5", Rules: byAddress, Prepare: speaking, Record: shopRecorded("9000"),
			Harm: verbatim(mirrored),
			Attack: func(a *Attacker) error {
				if a.Args["act"] == "second" {
					return a.reportArguments()
				}
				return a.again("", secrets(a.Token)...)
			},
		},
	}
}

// reportArguments tells the collector what ps(1) would see.
func (a *Attacker) reportArguments() error {
	text, err := os.ReadFile("/proc/self/cmdline")
	return errors.Join(err, a.report(strings.ReplaceAll(string(text), "\x00", " ")))
}
