//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// sample is what the kernel says of a process.
type sample struct {
	at          time.Duration
	rss         int64 // kB
	threads     int
	descriptors int64
	cpu         time.Duration
}

// dataPathOf finds the data path of a sandbox by its launcher's pid.
func dataPathOf(launcher int) (int, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || parentOf(pid) != launcher {
				continue
			}
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(line), "weir-datapath") {
				return pid, nil
			}
		}
	}
	return 0, errors.New("find data path: none")
}

func parentOf(pid int) int {
	parent, _ := strconv.Atoi(statusOf(pid)["PPid"])
	return parent
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

// look takes a sample. The size of the directory fd is the number of descriptors (Linux 6.2); to read it one would have to
// be allowed to trace the process.
func look(pid int, since time.Time) (sample, error) {
	s := sample{at: time.Since(since)}
	status := statusOf(pid)
	if status["VmRSS"] == "" {
		return s, fmt.Errorf("the data path has ended")
	}
	s.rss, _ = strconv.ParseInt(strings.TrimSuffix(status["VmRSS"], " kB"), 10, 64)
	s.threads, _ = strconv.Atoi(status["Threads"])
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		s.descriptors = info.Size()
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(rest); len(f) > 12 { // proc_pid_stat(5): utime and stime are fields 14 and 15, in hundredths
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		s.cpu = time.Duration(user+system) * 10 * time.Millisecond
	}
	return s, nil
}
