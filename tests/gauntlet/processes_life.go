//go:build linux

package gauntlet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// afterlife is how long after the end of the sandbox something has to happen to count as outliving it.
const afterlife = 300 * time.Millisecond

// lifeRows are about who ends whom, and who outlives whom.
func lifeRows() []Row {
	mayTalk := []string{"--mode", "enforce", "--allow", Shop.String() + ":80"} // only its death keeps it from talking
	return []Row{
		{
			ID: "processes/daemon", Vector: "leave a daemon behind that sends when the program has ended", Right: "everything inside ends with the program",
			Source: "httptap (daemonized children)", Rules: mayTalk, Settle: 2 * afterlife,
			Attack: func(a *Attacker) error {
				if os.Getenv(partVariable) == "daemon" {
					soon(func() bool { return strconv.Itoa(os.Getppid()) != os.Getenv(parentVariable) })
					time.Sleep(afterlife)
					return a.tellTCP(at(Shop, 80))
				}
				return a.startDaemon("daemon")
			},
			Harm: Heard,
		},
		{
			ID: "processes/orphan", Vector: "go on sending when the sandbox's own process was killed", Right: "everything inside dies with it",
			Source: "security.md 2.5 (parent dies)", Rules: mayTalk, Settle: 2 * afterlife,
			During: func(ctx context.Context, s *Stage) {
				soon(func() bool { return ctx.Err() != nil || s.World.Heard(s.Token) })
				s.Args["killed"] = strconv.FormatInt(time.Now().UnixMilli(), 10)
				syscall.Kill(s.Pid, syscall.SIGKILL)
			},
			Attack: (*Attacker).talkOn,
			Harm:   spokeAfterKill,
		},
		{
			ID: "processes/unjudged", Vector: "go on sending when the process that judges it has died", Right: "the program is killed, nothing goes past",
			Source: "security.md 0.5; harden-runner (bestax #487)", Rules: mayTalk, Settle: 2 * afterlife,
			During: func(ctx context.Context, s *Stage) {
				soon(func() bool { return ctx.Err() != nil || s.World.Heard(s.Token) })
				s.Args["killed"] = strconv.FormatInt(time.Now().UnixMilli(), 10)
				if pid := childNamed(s.Pid, "weir-datapath"); pid > 0 {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			},
			Attack: (*Attacker).talkOn, Harm: spokeAfterKill,
		},
	}
}

// outwardRows reach for processes and terminals of the host by the names they have for everybody.
func outwardRows() []Row {
	return []Row{
		{
			ID: "processes/signal", Vector: "kill a process of the host", Right: "there is no such process",
			Source: "security.md 2.5", Prepare: withVictim,
			Attack: func(a *Attacker) error {
				pid, _ := strconv.Atoi(a.Args["pid"])
				return unix.Kill(pid, unix.SIGKILL)
			},
			Harm: victimDied,
		},
		{
			ID: "processes/signal-group", Vector: "signal the job on whose terminal the sandbox was started", Right: "no signal leaves the sandbox",
			Source: "security.md 2.5", Lacks: lacksLandlock,
			Prepare: func(s *Stage) error {
				s.Neighbour = "trap '' HUP; trap 'echo >signalled; exit' USR1; echo >ready; while :; do sleep 0.02; done"
				return withTerminal(s)
			},
			Attack: func(*Attacker) error {
				signal.Ignore(unix.SIGUSR1)
				return unix.Kill(0, unix.SIGUSR1)
			},
			Harm: func(s *Stage) bool {
				_, err := os.Stat(s.Dir + "/signalled")
				return err == nil
			},
		},
		{
			ID: "processes/foreign-terminal", Vector: "write to another terminal of the user by its name", Right: "it is not there",
			Prepare: func(s *Stage) error {
				keyboard, tty, err := openTerminal(s)
				if err != nil {
					return err
				}
				s.keyboard, s.Args["tty"] = keyboard, tty.Name()
				return nil
			},
			Attack: func(a *Attacker) error { return a.overwrite(a.Args["tty"], unix.O_NOCTTY) },
			Harm: func(s *Stage) bool {
				b := make([]byte, 4096)
				unix.SetNonblock(int(s.keyboard.Fd()), true)
				n, _ := unix.Read(int(s.keyboard.Fd()), b)
				return bytes.Contains(b[:max(n, 0)], []byte(s.Token))
			},
		},
	}
}

// spokeAfterKill is a Harm: somebody was told a time that lies well behind that of the kill.
func spokeAfterKill(s *Stage) bool {
	killed, err := strconv.ParseInt(s.Args["killed"], 10, 64)
	return err == nil && s.World.lastWord(s.Token) > killed+afterlife.Milliseconds()
}

// childNamed returns the child of a process that calls itself so, 0 if there is none.
func childNamed(parent int, name string) int {
	found, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, path := range found {
		list, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(list)) {
			cmdline, _ := os.ReadFile("/proc/" + word + "/cmdline")
			if first, _, _ := strings.Cut(string(cmdline), "\x00"); first == name {
				pid, _ := strconv.Atoi(word)
				return pid
			}
		}
	}
	return 0
}

// parentVariable tells a daemon who started it.
const parentVariable = "GAUNTLET_PARENT"

// startDaemon starts the attacker again in a session of its own, without any of our streams, and leaves it alone.
func (a *Attacker) startDaemon(part string) error {
	env := append(os.Environ(), partVariable+"="+part, parentVariable+"="+strconv.Itoa(os.Getpid()))
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: env, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	return cmd.Start()
}

// talkOn tells the time, again and again, from a daemon and from the program itself.
func (a *Attacker) talkOn() error {
	if os.Getenv(partVariable) == "" {
		if err := a.startDaemon("talk"); err != nil {
			return err
		}
	}
	for end := time.Now().Add(8 * afterlife); time.Now().Before(end); time.Sleep(afterlife / 10) {
		c, err := dial("tcp", at(Shop, 80))
		if err != nil {
			return err
		}
		err = tell(c, fmt.Sprintf("%s %d\n", a.Token, time.Now().UnixMilli()))
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
