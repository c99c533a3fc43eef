//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Nothing that a process does can give the terminal back once the process is gone: killed, or ended by a panic in a goroutine of
// which we do not know. So another one watches it, does it then, and shows what the runtime said of the panic.

// guardName is the hidden command that watches over the terminal, guardReady how long it may take to be there.
const (
	guardName  = "screen-guard"
	guardReady = 2 * time.Second
)

// guardWell is what the watched process says when it has given the terminal back itself; maxCrash bounds what it says else.
const (
	guardWell = "well\n"
	maxCrash  = 256 << 10
)

// guardScreen starts the process that gives the terminal back if we cannot. What it returns is to be called when we have.
// Without it the picture is shown all the same.
func guardScreen(in, out *os.File) (done func()) {
	nothing := func() {}
	self, err := os.Executable()
	if err != nil {
		return nothing
	}
	ours, theirs, err := pipePair()
	if err != nil {
		return nothing
	}
	defer theirs.close()
	cmd := exec.Command(self, guardName)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, theirs.w, out
	cmd.ExtraFiles = []*os.File{theirs.r}
	if err := cmd.Start(); err != nil {
		ours.close()
		return nothing
	}
	_ = ours.r.SetReadDeadline(time.Now().Add(guardReady))
	if _, err := ours.r.Read(make([]byte, 1)); err != nil {
		ours.close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nothing
	}
	_ = debug.SetCrashOutput(ours.w, debug.CrashOptions{})
	return func() {
		_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
		_, _ = io.WriteString(ours.w, guardWell)
		ours.close()
		_ = cmd.Wait()
	}
}

// ends are one process's ends of two pipes.
type ends struct{ r, w *os.File }

func (e ends) close() {
	_ = e.r.Close()
	_ = e.w.Close()
}

func pipePair() (ours, theirs ends, err error) {
	ready, says, err := os.Pipe()
	if err != nil {
		return ours, theirs, fmt.Errorf("make pipe: %w", err)
	}
	hears, ends, err := os.Pipe()
	if err != nil {
		return ours, theirs, errors.Join(fmt.Errorf("make pipe: %w", err), ready.Close(), says.Close())
	}
	ours.r, ours.w = ready, ends
	theirs.r, theirs.w = hears, says
	return ours, theirs, nil
}

// newScreenGuardCommand is what runs in that process: stdin and stderr are the terminal, 3 is what the watched process says.
func newScreenGuardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    guardName,
		Hidden: true,
		Args:   wants(),
		RunE: func(*cobra.Command, []string) error {
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTTOU)
			before, err := term.GetState(int(os.Stdin.Fd()))
			if err != nil {
				return exitError{status: 1}
			}
			if _, err := os.Stdout.WriteString("\n"); err != nil {
				return exitError{status: 1}
			}
			_ = os.Stdout.Close()
			said, _ := io.ReadAll(io.LimitReader(os.NewFile(3, "watched"), maxCrash))
			if string(said) == guardWell {
				return nil
			}
			_, _ = os.Stderr.WriteString(screenLeave)
			_ = term.Restore(int(os.Stdin.Fd()), before)
			for line := range strings.Lines(string(said)) {
				fmt.Fprintln(os.Stderr, cell(strings.TrimRight(line, "\n")))
			}
			return nil
		},
	}
}
