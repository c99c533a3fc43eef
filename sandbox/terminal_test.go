//go:build linux

package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is the master of a pseudo-terminal and what has been read from it.
type screen struct {
	t      *testing.T
	master *os.File
	seen   bytes.Buffer
}

// onTerminal starts cmd as the leader of a session of its own with a terminal.
func onTerminal(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	t.Cleanup(func() { master.Close() })
	var n uint32
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &screen{t: t, master: master}
}

func (s *screen) typeIn(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// await reads until want has been shown and forgets what came before its end.
func (s *screen) await(want string) {
	s.t.Helper()
	buf := make([]byte, 4096)
	s.master.SetReadDeadline(time.Now().Add(patience))
	for !strings.Contains(s.seen.String(), want) {
		n, err := s.master.Read(buf)
		s.seen.Write(buf[:n])
		if err != nil && !strings.Contains(s.seen.String(), want) {
			s.t.Fatalf("waiting for %q: %v; screen: %q", want, err, s.seen.String())
		}
	}
	_, rest, _ := strings.Cut(s.seen.String(), want)
	s.seen.Reset()
	s.seen.WriteString(rest)
}

// TestInterruptOnce: ^C reaches the program from the kernel, and not a second time from the launcher.
func TestInterruptOnce(t *testing.T) {
	self := selfCopy(t)
	for _, c := range callers() {
		t.Run(c.name, func(t *testing.T) {
			spec := testSpec(`n=0; trap 'n=$((n+1))' INT; echo start''ed; while [ $n -eq 0 ]; do sleep 0.02; done; sleep 0.3; echo n=$n; exit 6`)
			cmd := c.launcher(t, self, spec)
			s := onTerminal(t, cmd)
			s.await("started")
			s.typeIn("\x03")
			s.await("n=1\r\n")
			s.await("foreground: true")
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 6 {
				t.Errorf("exit status %d", code)
			}
		})
	}
}

// TestInteractiveShell: job control works inside as it does outside, and the terminal is given back.
func TestInteractiveShell(t *testing.T) {
	self := selfCopy(t)
	for _, shell := range []string{"bash", "dash"} {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		t.Run(shell, func(t *testing.T) {
			spec := testSpec("")
			spec.Command = []string{shell, "-i"}
			if shell == "bash" {
				spec.Command = []string{shell, "--norc", "--noprofile", "-i"}
			}
			spec.Env = append(spec.Env, "PS1=prompt> ", "TERM=dumb")
			cmd := callers()[0].launcher(t, self, spec)
			s := onTerminal(t, cmd)
			s.await("prompt> ")
			if strings.Contains(s.seen.String(), "job control") {
				t.Errorf("screen: %q", s.seen.String())
			}
			s.typeIn("sed -u s/x/yy/\n")
			s.typeIn("ax\n")
			s.await("ayy")
			s.typeIn("\x1a") // ^Z stops the job, not the shell
			s.await("prompt> ")
			s.typeIn("jobs; echo job''s shown\n")
			s.await("topped")
			s.await("jobs shown")
			s.typeIn("fg\n")
			s.typeIn("bx\n")
			s.await("byy")
			s.typeIn("\x03")
			s.await("prompt> ")
			s.typeIn("echo rc=$?\n")
			s.await("rc=130")
			s.await("prompt> ")
			s.typeIn("exit 5\n")
			s.await("foreground: true")
			cmd.Wait()
			// On its way out dash gives the terminal to the group it was started in, which has no number in here, and ends
			// with 2 when it cannot. bash does not mind.
			if code := cmd.ProcessState.ExitCode(); code != 5 && shell != "dash" {
				t.Errorf("exit status %d; screen: %q", code, s.seen.String())
			}
		})
	}
}

// TestNoTerminalByTheBack: a program whose descriptors are pipes cannot open the launcher's terminal.
func TestNoTerminalByTheBack(t *testing.T) {
	self := selfCopy(t)
	cmd := callers()[0].launcher(t, self, testSpec(`(echo stolen >/dev/tty) 2>/dev/null || echo refused`))
	piped := exec.Command("sh", "-c", `"$0" </dev/null 2>&1 | cat`, cmd.Path)
	piped.Env = append(cmd.Env, "PATH=/usr/bin:/bin")
	s := onTerminal(t, piped)
	s.await("refused")
	if strings.Contains(s.seen.String(), "stolen") {
		t.Errorf("screen: %q", s.seen.String())
	}
}
