//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clientName is the name under which this binary runs inside; the kernel cuts it at 15 bytes.
const clientName = "weir-bench-cmd"

// clockTick is USER_HZ, which is 100 on every architecture that Linux runs on today.
const clockTick = 10 * time.Millisecond

// process is a line of /proc.
type process struct {
	pid, parent int
	name        string
	rss, peak   int64 // resident bytes, now and at most
	file        int64 // of them, pages of files
	cpu         time.Duration
}

// carriers returns the processes of a subject that carry its traffic: everything it started but the client.
func (r *running) carriers() []process {
	table := processTable()
	mine := map[int]bool{}
	for _, root := range []int{pidOf(r.program), pidOf(r.helper)} {
		mine[root] = root != 0
	}
	for grown := true; grown; { // parents may come after their children
		grown = false
		for _, p := range table {
			if mine[p.parent] && !mine[p.pid] {
				mine[p.pid], grown = true, true
			}
		}
	}
	var out []process
	for _, p := range table {
		if mine[p.pid] && p.name != clientName {
			out = append(out, p)
		}
	}
	return out
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
	p := process{pid: pid}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(status)) {
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
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(rest); len(f) > 12 { // proc_pid_stat(5): utime and stime are fields 14 and 15
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		p.cpu = time.Duration(user+system) * clockTick
	}
	return p, nil
}

func kilobytes(value string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	return n << 10
}
