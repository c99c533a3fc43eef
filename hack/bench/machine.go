//go:build linux

package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the numbers come from.
type machine struct {
	Date   string    `json:"date"`
	Commit string    `json:"commit"`
	Kernel string    `json:"kernel"`
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Load   [2]string `json:"load"` // over one minute, before and after
	User   int       `json:"uid"`
	Go     string    `json:"go"`
}

func describeMachine(commit string) machine {
	if commit == "" {
		commit = firstLine("git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12")
	}
	return machine{
		Date: time.Now().UTC().Format("2006-01-02"), Commit: commit, Kernel: kernel(), CPU: cpuModel(),
		Cores: runtime.NumCPU(), Load: [2]string{loadAverage(), ""}, User: os.Getuid(), Go: runtime.Version(),
	}
}

func kernel() string {
	var u unix.Utsname
	unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(b), " ")
	return load
}

func pidOf(cmd *exec.Cmd) int {
	if cmd == nil || cmd.Process == nil {
		return 0
	}
	return cmd.Process.Pid
}
