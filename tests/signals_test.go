//go:build linux

package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait; only a hang reaches it.
const patience = 20 * time.Second

// running is a weir whose CMD has said "ready".
type running struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// startReady starts the command line and waits for CMD to say that it is ready.
func startReady(t *testing.T, name string, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(filepath.Join(binDir(), name), args...)}
	r.cmd.Env = append(stateOf(t), "PATH="+binDir()+":"+os.Getenv("PATH"))
	r.cmd.Stderr = &r.stderr
	r.cmd.WaitDelay = patience
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		r.cmd.Wait()
	})
	hung := time.AfterFunc(patience, func() { r.cmd.Process.Kill() })
	defer hung.Stop()
	r.stdout = bufio.NewReader(out)
	for {
		line, err := r.stdout.ReadString('\n')
		if strings.TrimSpace(line) == "ready" {
			return r
		}
		if err != nil {
			t.Fatalf("the program did not get ready: %v\n%s", err, r.stderr.String())
		}
	}
}

// rest reads what CMD still says and returns the status.
func (r *running) rest(t *testing.T) (string, int) {
	t.Helper()
	hung := time.AfterFunc(patience, func() { r.cmd.Process.Kill() })
	out, _ := io.ReadAll(r.stdout)
	r.cmd.Wait()
	if !hung.Stop() {
		t.Fatalf("weir did not end; it said %q and %q", out, r.stderr.String())
	}
	return string(out), r.cmd.ProcessState.ExitCode()
}

// TestSignalsReachTheProgram: what weir is sent, CMD gets, and its answer is weir's.
func TestSignalsReachTheProgram(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		name := map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP", syscall.SIGUSR1: "USR1"}[sig]
		t.Run(name, func(t *testing.T) {
			r := startReady(t, "weir", "run", "-q", "--", "sh", "-c", `trap "echo got it; exit 3" `+name+`; echo ready; while :; do sleep 0.02; done`)
			r.cmd.Process.Signal(sig)
			if out, status := r.rest(t); out != "got it\n" || status != 3 {
				t.Errorf("the program said %q, weir ended with %d; stderr %q", out, status, r.stderr.String())
			}
		})
	}
	t.Run("untrapped", func(t *testing.T) {
		r := startReady(t, "weir", "run", "-q", "--", "sh", "-c", "echo ready; exec sleep 1000")
		r.cmd.Process.Signal(syscall.SIGTERM)
		if _, status := r.rest(t); status != 128+int(syscall.SIGTERM) {
			t.Errorf("weir ended with %d", status)
		}
	})
}

// TestInterruptFromTheTerminal: ^C reaches the program once, and weir waits for what it does about it.
func TestInterruptFromTheTerminal(t *testing.T) {
	if ok, _ := condition("pty", ""); !ok {
		t.Skip("no terminal can be made here")
	}
	r := startReady(t, "probe", "tty", "weir", "run", "-q", "--", "sh", "-c",
		`n=0; trap "n=\$((n+1))" INT; echo ready; while [ $n = 0 ]; do sleep 0.02; done; sleep 0.3; echo interrupted $n; exit 9`)
	io.WriteString(r.stdin, "\x03")
	if out, status := r.rest(t); !strings.Contains(out, "interrupted 1") || status != 9 {
		t.Errorf("the terminal shows %q, status %d", out, status)
	}
}

// TestKilledWeirLeavesNothing: SIGKILL of the launcher, which nobody can catch, ends the data path and everything inside,
// and what the program kept sending stays unsent.
func TestKilledWeirLeavesNothing(t *testing.T) {
	r := startReady(t, "weir", "run", "-q", "--allow", "tools.example:7", "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro", "--", "sh", "-c",
		`/run/probe tcp tools.example:7 ready; while :; do /run/probe tcp tools.example:7 more; done`)
	family := descendants(t, r.cmd.Process.Pid)
	if len(family) < 3 {
		t.Fatalf("only %v run under weir; data path, init and program were expected", family)
	}
	r.cmd.Process.Kill()
	r.cmd.Wait()
	waitGone(t, family)
	tap := tapUplink(t)
	time.Sleep(100 * time.Millisecond) // longer than the program ever paused
	for _, p := range tap.sent(t) {
		if !strings.HasPrefix(p, "protocol 6 ") { // the kernel may still end connections that are there
			t.Errorf("sent after the end: %s", p)
		}
	}
}

// TestDeadDataPathEndsTheProgram: nothing runs on without anybody who sees what it sends.
func TestDeadDataPathEndsTheProgram(t *testing.T) {
	r := startReady(t, "weir", "run", "--", "sh", "-c", "echo ready; exec sleep 1000")
	family := descendants(t, r.cmd.Process.Pid)
	found := false
	for _, p := range family {
		if p.name == "weir-datapath" {
			found = true
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	if !found {
		t.Fatalf("no data path among %v", family)
	}
	if _, status := r.rest(t); status != 128+int(syscall.SIGKILL) {
		t.Errorf("weir ended with %d", status)
	}
	if !strings.Contains(r.stderr.String(), "the data path ended") {
		t.Errorf("weir said %q", r.stderr.String())
	}
	waitGone(t, family)
}

// process is a running program; start tells it from a later one with its pid.
type process struct {
	pid         int
	name, start string
}

func (p process) String() string { return fmt.Sprintf("%s (%d)", p.name, p.pid) }

// readProcess reads /proc/PID/stat (proc_pid_stat(5)) and argv[0].
func readProcess(pid int) (p process, parent int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, 0, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if fields[0] == "Z" || fields[0] == "X" {
		return p, 0, false
	}
	parent, _ = strconv.Atoi(fields[1])
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	name, _, _ := strings.Cut(string(args), "\x00")
	return process{pid, name, fields[19]}, parent, true
}

// descendants lists the processes under pid.
func descendants(t *testing.T, pid int) (list []process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]process{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if p, parent, ok := readProcess(n); ok {
				children[parent] = append(children[parent], p)
			}
		}
	}
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, c := range children[next[0]] {
			list = append(list, c)
			next = append(next, c.pid)
		}
	}
	return list
}

func waitGone(t *testing.T, family []process) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		family = slices.DeleteFunc(family, func(p process) bool {
			now, _, ok := readProcess(p.pid)
			return !ok || now.start != p.start
		})
		if len(family) == 0 {
			return
		}
		if time.Now().After(end) {
			for _, p := range family {
				syscall.Kill(p.pid, syscall.SIGKILL)
			}
			t.Fatalf("still running: %v", family)
		}
	}
}
