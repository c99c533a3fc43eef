//go:build linux

package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is where the numbers come from.
type Machine struct {
	Date   string `json:"date"`
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`

	// Load is the average over one minute before the run, LoadAfter the same after it; the run itself is in the latter.
	Load      float64 `json:"load"`
	LoadAfter float64 `json:"load_after"`

	User    int    `json:"uid"`
	Go      string `json:"go"`
	Version string `json:"version,omitempty"` // of the measuring program
	Commit  string `json:"commit,omitempty"`
}

func describeMachine(c Config) Machine {
	return Machine{
		Date: time.Now().UTC().Format("2006-01-02"), Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(), Load: loadAverage(),
		User: os.Getuid(), Go: runtime.Version(), Version: c.Version, Commit: c.Commit,
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

func loadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	text, _, _ := strings.Cut(string(b), " ")
	load, _ := strconv.ParseFloat(text, 64)
	return load
}
