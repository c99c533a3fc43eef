//go:build linux

package boxed

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is USER_HZ, which is 100 on every architecture that Linux runs on today.
const clockTick = 10 * time.Millisecond

// Process is what the kernel says of a process.
type Process struct {
	PID, Parent int
	Name        string // argv[0]
	RSS         int64  // octets
	Threads     int
	Descriptors int64
	CPU         time.Duration // of all its threads so far, to a hundredth of a second
}

// Look reads about a process. An error says that it has ended.
func Look(pid int) (Process, error) {
	status := statusOf(pid)
	if status["VmRSS"] == "" {
		return Process{}, fmt.Errorf("look at process %d: it has ended", pid)
	}
	p := Process{PID: pid, RSS: kilobytes(status["VmRSS"])}
	p.Parent, _ = strconv.Atoi(status["PPid"])
	p.Threads, _ = strconv.Atoi(status["Threads"])
	// The size of the directory fd is the number of descriptors (Linux 6.2); to read it one would have to be allowed to trace
	// the process.
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		p.Descriptors = info.Size()
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	p.Name, _, _ = strings.Cut(string(line), "\x00")
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if at := strings.LastIndex(string(stat), ") "); at >= 0 { // the name before it may hold anything
		if f := strings.Fields(string(stat[at+2:])); len(f) > 12 { // proc_pid_stat(5): utime and stime are fields 14 and 15
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			p.CPU = time.Duration(user+system) * clockTick
		}
	}
	return p, nil
}

// DataPathOf waits for the data path of a sandbox and finds it by its launcher.
func DataPathOf(launcher int) (int, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		all, err := Below(launcher)
		if err != nil {
			return 0, err
		}
		for _, p := range all {
			if strings.HasPrefix(p.Name, "weir-datapath") {
				return p.PID, nil
			}
		}
	}
	return 0, errors.New("find data path: none")
}

// Below returns the processes that were started, directly or not, by the roots, and the roots.
func Below(roots ...int) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			parent, _ := strconv.Atoi(statusOf(pid)["PPid"])
			children[parent] = append(children[parent], pid)
		}
	}
	var found []Process
	for next := roots; len(next) > 0; {
		var below []int
		for _, pid := range next {
			if p, err := Look(pid); err == nil {
				found = append(found, p)
			}
			below = append(below, children[pid]...)
		}
		next = below
	}
	return found, nil
}

// Shared returns the process's memory in octets, with its part of what it shares with others (PSS): over all processes of
// the machine, shared pages are counted once.
func Shared(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			return kilobytes(strings.TrimSpace(value)), nil
		}
	}
	return 0, fmt.Errorf("read memory of process %d: it has ended", pid)
}

// Busy returns how long the process's threads have run, exactly; what threads that have ended ran is not in it.
func Busy(pid int) time.Duration {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	var sum time.Duration
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		ran, _, _ := strings.Cut(string(text), " ")
		ns, _ := strconv.ParseInt(ran, 10, 64)
		sum += time.Duration(ns)
	}
	return sum
}

// Available returns how much memory the machine could give to new processes, in octets.
func Available() int64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			return kilobytes(strings.TrimSpace(value))
		}
	}
	return 0
}

func statusOf(pid int) map[string]string {
	out := map[string]string{}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		out[key] = strings.TrimSpace(value)
	}
	return out
}

func kilobytes(value string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
	return n << 10
}
