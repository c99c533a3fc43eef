//go:build linux

package tests

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockedDown reads what the kernel says of a running data path, on each of its threads, and of its launcher.
func TestLockedDown(t *testing.T) {
	r := startReady(t, "weir", "run", "-q", "--", "sh", "-c", "echo ready; exec sleep 1000")
	dataPath := dataPathOf(t, r.cmd.Process.Pid)
	want := map[string]string{"NoNewPrivs": "1", "Seccomp": "2"}
	checkStatus(t, r.cmd.Process.Pid, want)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		want[set] = "0000000000000000"
	}
	if os.Geteuid() == 0 {
		want["CapBnd"] = "0000000000000000"
	}
	checkStatus(t, dataPath, want)

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", dataPath))
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []string{"Max core file size 0 0", "Max data size 2147483648 2147483648"} {
		if !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), limit) {
			t.Errorf("no %q in the limits of the data path:\n%s", limit, limits)
		}
	}
	for _, pid := range []int{r.cmd.Process.Pid, dataPath} {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		if uid := os.Geteuid(); uid != 0 && info.Sys().(*syscall.Stat_t).Uid == uint32(uid) {
			t.Errorf("process %d can be looked into by its user", pid)
		}
	}
}

// TestDataPathInheritsNothing: what weir was started with open stays with the launcher.
func TestDataPathInheritsNothing(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := unix.FcntlInt(dir.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	r := startReady(t, "weir", "run", "-q", "--", "sh", "-c", "echo ready; exec sleep 1000")
	pid := dataPathOf(t, r.cmd.Process.Pid)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("this user cannot look into the data path")
	}
	if err != nil || len(fds) < 3 {
		t.Fatalf("descriptors of the data path: %v, %v", fds, err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if to == dir.Name() {
			t.Errorf("the data path has %s open", to)
		}
	}
}

// checkStatus holds all threads of a process to what proc_pid_status(5) should say.
func checkStatus(t *testing.T, pid int, want map[string]string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads of %d: %v, %v", pid, threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			if w, ok := want[name]; ok && strings.TrimSpace(value) != w {
				t.Errorf("%s: %s is %s, want %s", thread, name, strings.TrimSpace(value), w)
			}
		}
	}
}

// talk is a program that sends what it is told over one connection, and over a new one each, and says what comes back.
const talk = `exec 3<>/dev/tcp/tools.example/7; echo ready; while read line; do echo "$line" >&3; read -r back <&3; echo "$back $(/run/probe tcp tools.example:7 "$line")"; done`

// TestCrashStaysAlone: whatever becomes of one sandbox's data path, its program ends with it, and another sandbox does not
// notice.
func TestCrashStaysAlone(t *testing.T) {
	args := []string{"run", "--allow", "tools.example:7", "--share=" + filepath.Join(binDir(), "probe") + ":/run/probe:ro", "--", "bash", "-c", talk}
	other := startReady(t, "weir", args...)
	say := func(line string) {
		t.Helper()
		fmt.Fprintln(other.stdin, line)
		if got, err := other.stdout.ReadString('\n'); err != nil || got != line+" "+line+"\n" {
			t.Fatalf("the other sandbox says %q, %v; %s", got, err, other.stderr.String())
		}
	}
	say("before")
	for _, c := range []struct {
		signal syscall.Signal
		says   string // on the way down
	}{{syscall.SIGSEGV, "SIGSEGV: segmentation violation"}, {syscall.SIGQUIT, "SIGQUIT: quit"}, {syscall.SIGABRT, "SIGABRT: abort"}, {syscall.SIGKILL, "signal: killed"}} {
		t.Run(c.signal.String(), func(t *testing.T) {
			one := startReady(t, "weir", args...)
			family := descendants(t, one.cmd.Process.Pid)
			syscall.Kill(dataPathOf(t, one.cmd.Process.Pid), c.signal)
			_, status := one.rest(t)
			said := one.stderr.String()
			if status != 128+int(syscall.SIGKILL) || !strings.Contains(said, c.says) || !strings.Contains(said, "weir: the data path ended") {
				t.Errorf("status %d, stderr %q", status, said)
			}
			if c.signal != syscall.SIGKILL && !strings.Contains(said, "goroutine 1 ") {
				t.Errorf("no traceback in %q", said)
			}
			waitGone(t, family)
			say(fmt.Sprint("after ", int(c.signal)))
		})
	}
	io.Closer(other.stdin).Close()
	if out, status := other.rest(t); status != 1 && status != 0 {
		t.Errorf("the other sandbox ended with %d and said %q", status, out)
	}
}
