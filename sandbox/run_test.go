//go:build linux

package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds what a broken sandbox may take; nothing waits that long otherwise.
const patience = 20 * time.Second

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]ExitStatus{
		"exit 0":                   {},
		"exit 42":                  {Code: 42},
		"exit 255":                 {Code: 255},
		"kill -TERM $$":            {Signal: syscall.SIGTERM},
		"kill -KILL $$":            {Signal: syscall.SIGKILL},
		"sleep 1000 & exit 3":      {Code: 3}, // the rest is killed
		"(sleep 1000 &) ; exit 4":  {Code: 4},
		"trap '' TERM; kill 0 $$ ": {},
	} {
		t.Run(script, func(t *testing.T) {
			if got, err := run(testSpec(script)); err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

func TestExecErrors(t *testing.T) {
	dir := openDir(t)
	files := map[string]struct {
		content string
		mode    fs.FileMode
	}{
		"plain":     {"#!/bin/sh\n", 0o644},
		"no-format": {"neither script nor program\n", 0o755},
		"no-interp": {"#!/no/such/interpreter\n", 0o755},
		"good":      {"#!/bin/sh\nexit 5\n", 0o755},
	}
	for name, f := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.content), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		command string
		want    error
	}{
		{"no-such-program", exec.ErrNotFound},
		{"/no/such/program", exec.ErrNotFound},
		{"./no-such-program", exec.ErrNotFound},
		{"plain", fs.ErrPermission},
		{"/etc", fs.ErrPermission},
		{"no-format", syscall.ENOEXEC},
		{"no-interp", fs.ErrPermission},
	} {
		t.Run(row.command, func(t *testing.T) {
			spec := testSpec("")
			spec.Command, spec.Shares = []string{row.command}, []Share{{Host: dir, Inside: "/progs", ReadOnly: true}}
			spec.Env = []string{"PATH=/progs:/usr/bin:/bin"}
			_, err := run(spec)
			var ex *ExecError
			if !errors.As(err, &ex) || !errors.Is(err, row.want) {
				t.Errorf("error %v, want an ExecError of %v", err, row.want)
			}
		})
	}
	t.Run("cmd's own PATH counts", func(t *testing.T) {
		spec := testSpec("")
		spec.Command, spec.Env, spec.Shares = []string{"good"}, []string{"PATH=/progs"}, []Share{{Host: dir, Inside: "/progs"}}
		if got, err := run(spec); err != nil || got.Code != 5 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestStreamsAreUntouched(t *testing.T) {
	every := make([]byte, 0, 256*64)
	for i := range cap(every) {
		every = append(every, byte(i*7))
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(in, every, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := testSpec("cat; echo err >&2")
	spec.Stdin, spec.Stdout, spec.Stderr = open(t, in, os.O_RDONLY), open(t, out, os.O_CREATE|os.O_WRONLY), open(t, out+".err", os.O_CREATE|os.O_WRONLY)
	if got, err := run(spec); err != nil || got != (ExitStatus{}) {
		t.Fatal(got, err)
	}
	if got, _ := os.ReadFile(out); !bytes.Equal(got, every) {
		t.Errorf("%d bytes came out, other than the %d that went in", len(got), len(every))
	}
	if got, _ := os.ReadFile(out + ".err"); string(got) != "err\n" {
		t.Errorf("stderr %q", got)
	}
}

func open(t *testing.T, name string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// started runs spec until its program has said "started", and returns the rest of what it says.
func started(t *testing.T, spec Spec) (*Sandbox, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdout = w
	s, err := Start(spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); r.Close() })
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, r)
	return s, r
}

func awaitLine(t *testing.T, r *os.File) {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(r, make([]byte, len("started\n"))); err != nil {
		t.Fatalf("program did not start: %v", err)
	}
}

func TestSignalsReachCommand(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH} {
		t.Run(sig.String(), func(t *testing.T) {
			s, r := started(t, testSpec(fmt.Sprintf(`trap 'echo got; exit 9' %d; echo started; while :; do sleep 0.01; done`, sig)))
			if err := s.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Wait(); err != nil || got.Code != 9 {
				t.Errorf("got %+v, %v", got, err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "got\n" {
				t.Errorf("program said %q", rest)
			}
		})
	}
	t.Run("uncaught", func(t *testing.T) {
		s, _ := started(t, testSpec("echo started; exec sleep 1000"))
		s.Signal(syscall.SIGTERM)
		if got, err := s.Wait(); err != nil || got.Signal != syscall.SIGTERM {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestCloseKillsEverything(t *testing.T) {
	s, r := started(t, testSpec(`setsid sleep 1000 & (trap '' TERM HUP INT; sleep 1000) & echo started; sleep 1000`))
	s.Close()
	s.Close()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 { // EOF when the last holder of the pipe is gone
		t.Errorf("read %q, %v", rest, err)
	}
	if _, err := s.Wait(); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait after Close: %v", err)
	}
	if err := s.Signal(syscall.SIGTERM); !errors.Is(err, ErrClosed) {
		t.Errorf("Signal after Close: %v", err)
	}
}

func TestCloseBeforeRelease(t *testing.T) {
	s, err := Start(testSpec("exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := s.Release(); !errors.Is(err, ErrClosed) {
		t.Errorf("Release after Close: %v", err)
	}
}

func TestReleaseOnlyOnce(t *testing.T) {
	s, _ := started(t, testSpec("echo started; sleep 1000"))
	if err := s.Release(); err == nil {
		t.Error("second Release succeeded")
	}
}

func TestInitKilledFromOutside(t *testing.T) {
	s, _ := started(t, testSpec("echo started; sleep 1000"))
	syscall.Kill(s.InitPID(), syscall.SIGKILL)
	if _, err := s.Wait(); !errors.Is(err, ErrLost) {
		t.Errorf("Wait: %v", err)
	}
}

// TestInitKilledFromInside: CMD cannot signal init where Landlock keeps signals in. Elsewhere it can end its own sandbox,
// and that is all that the caller sees of it.
func TestInitKilledFromInside(t *testing.T) {
	spec := testSpec("kill -SEGV 1 && sleep 1000; exit 3")
	if landlockABI() >= abiScopes {
		if got, err := run(spec); err != nil || got.Code != 3 {
			t.Errorf("got %+v, %v; want the kill refused", got, err)
		}
		return
	}
	stderr := filepath.Join(t.TempDir(), "stderr")
	spec.Stderr = open(t, stderr, os.O_CREATE|os.O_WRONLY)
	if _, err := run(spec); !errors.Is(err, ErrLost) {
		t.Errorf("run: %v", err)
	}
	if said, _ := os.ReadFile(stderr); len(said) > 0 {
		t.Errorf("stderr has what CMD never wrote: %.80q", said)
	}
}

// TestLauncherKilled: nothing of the sandbox outlives the launcher, however it dies.
func TestLauncherKilled(t *testing.T) {
	self := selfCopy(t)
	for _, c := range callers() {
		for _, when := range []string{"running", "stopped"} {
			t.Run(c.name+"/"+when, func(t *testing.T) {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				cmd := c.launcher(t, self, testSpec(`setsid sleep 1000 & echo started; sleep 1000`))
				cmd.Stdout = w // and no other descriptor that go test would wait for
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				w.Close()
				awaitLine(t, r)
				if when == "stopped" {
					cmd.Process.Signal(syscall.SIGSTOP)
				}
				cmd.Process.Kill()
				cmd.Wait()
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("read %q, %v: something is still alive", rest, err)
				}
			})
		}
	}
}

// TestNohup: what the caller ignores stays ignored.
func TestNohup(t *testing.T) {
	cmd := callers()[0].launcher(t, selfCopy(t), testSpec(`grep SigIgn /proc/self/status`))
	wrapped := exec.Command("sh", "-c", `trap '' HUP; exec "$0"`, cmd.Path)
	wrapped.Env = append(cmd.Env, "PATH=/usr/bin:/bin")
	out, err := wrapped.Output()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "1") {
		t.Errorf("inside %q, %v: SIGHUP is bit 0", out, err)
	}
}

func TestUmaskIsKept(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	if got, err := run(testSpec(`[ "$(umask)" = 0027 ]`)); err != nil || got.Code != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}
