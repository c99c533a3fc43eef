//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clientName is the name under which this binary runs inside; the kernel cuts it at 15 bytes.
const clientName = "weir-bench-cmd"

// clockTick is USER_HZ, which is 100 on every architecture that Linux runs on today.
const clockTick = 10 * time.Millisecond

// process is a line of /proc.
type process struct {
	pid, parent int
	group       int // the process group
	name        string
	rss, peak   int64 // resident bytes, now and at most
	file        int64 // of them, pages of files
	cpu         time.Duration
}

// processes returns those of a subject: what was started with its process group, and everything below that.
func (r *running) processes() []process {
	return below(processTable(), pidOf(r.program), pidOf(r.helper))
}

// below picks the processes of the groups and all their descendants.
func below(table []process, groups ...int) []process {
	mine := map[int]bool{}
	for _, p := range table {
		mine[p.pid] = p.group != 0 && slices.Contains(groups, p.group)
	}
	for grown := true; grown; { // parents may come after their children
		grown = false
		for _, p := range table {
			if mine[p.parent] && !mine[p.pid] {
				mine[p.pid], grown = true, true
			}
		}
	}
	return slices.DeleteFunc(table, func(p process) bool { return !mine[p.pid] })
}

// reapRest ends what has outlived its subject and been adopted, and collects what they leave.
func reapRest() {
	self := os.Getpid()
	for range 100 {
		left := slices.DeleteFunc(processTable(), func(p process) bool { return p.parent != self })
		for _, p := range left {
			unix.Kill(p.pid, unix.SIGKILL)
			unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// carriers are the processes that carry the traffic: all but the client.
func (r *running) carriers() []process {
	return slices.DeleteFunc(r.processes(), func(p process) bool { return p.name == clientName })
}

func pidOf(cmd *exec.Cmd) int {
	if cmd == nil || cmd.Process == nil {
		return 0
	}
	return cmd.Process.Pid
}

func total[T int64 | time.Duration](list []process, of func(process) T) (sum T) {
	for _, p := range list {
		sum += of(p)
	}
	return sum
}

// together is the sum of what of returns, with pages of files counted once: those of the largest process. The processes of
// a subject are runs of one binary.
func together(list []process, of func(process) int64) int64 {
	var sum, file int64
	for _, p := range list {
		sum += of(p) - p.file
		file = max(file, p.file)
	}
	return sum + file
}

func processTable() []process {
	entries, _ := os.ReadDir("/proc")
	var out []process
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(pid); err == nil {
				out = append(out, p)
			}
		}
	}
	return out
}

func readProcess(pid int) (process, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return process{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return parseProcess(pid, string(status), string(stat)), err
}

// parseProcess reads proc_pid_status(5) and proc_pid_stat(5).
func parseProcess(pid int, status, stat string) process {
	p := process{pid: pid}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.name = value
		case "PPid":
			p.parent, _ = strconv.Atoi(value)
		case "VmRSS":
			p.rss = kilobytes(value)
		case "RssFile":
			p.file = kilobytes(value)
		case "VmHWM":
			p.peak = kilobytes(value)
		}
	}
	if at := strings.LastIndex(stat, ") "); at >= 0 { // the name before it may hold anything
		if f := strings.Fields(stat[at+2:]); len(f) > 12 { // the group is field 5, utime and stime are 14 and 15
			p.group, _ = strconv.Atoi(f[2])
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			p.cpu = time.Duration(user+system) * clockTick
		}
	}
	return p
}

func kilobytes(value string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	return n << 10
}
