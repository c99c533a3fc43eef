//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What CMD may use up. The walls keep it from reading and writing what is not its own; these numbers keep it from taking
// what the host's other programs need. There is no bound for the memory of all its processes together without a cgroup of
// our own, which an ordinary user may not have: instead they are the first that the kernel ends when memory runs out.
const (
	// maxCore is one byte and not none: with none the kernel still starts a core handler of the host (a pipe in
	// core_pattern) and feeds it what CMD has made of itself; one byte tells it that there is nothing to handle.
	maxCore = 1
	// maxProcesses bounds processes and threads. A build with every core busy has a few hundred, a browser as many.
	maxProcesses = 4096
	// maxOpenFiles bounds the descriptors of one process, usualOpenFiles is where it starts: select(2) breaks above that,
	// programs that want more raise it.
	maxOpenFiles   = 65536
	usualOpenFiles = 1024
	// maxLocked is what kernels since 5.16 allow anyway. Locked memory cannot be swapped.
	maxLocked = 8 << 20
	// maxQueues is the kernel's usual number of bytes in message queues, charged to the user.
	maxQueues = 819200
	// maxPending bounds queued signals and timers, charged to the user.
	maxPending = 4096
	// firstToGo is the oom_score_adj: half of the machine's memory more than it really uses.
	firstToGo = 500
	// maxInotify bounds inotify instances and inotifyWatches their watches; both are charged to the user on the host too,
	// who usually has 128 and from 8192 up.
	maxInotify     = 64
	inotifyWatches = 1 << 19
	// maxNamespaces bounds the namespaces of each kind with profile engine. A container takes one of most kinds.
	maxNamespaces = 1024
)

// Sizes of the file systems in memory, as parts of the machine's memory, and how many files fit in one. Without a number
// each would be half of the memory, and there are four.
const (
	scratchSize  = "size=25%" // /tmp, /dev/shm and a home in memory
	smallSize    = "size=10%" // /var/tmp
	runtimeSize  = "size=64m" // /run
	scratchFiles = "nr_inodes=262144"
	runtimeFiles = "nr_inodes=16384"
	maxTerminals = "max=256" // pseudo-terminals, of a total that the machine shares
)

// limits are the resource limits of CMD: a current and a highest value. A lower one that weir has itself stays.
var limits = []struct {
	what           string
	resource       int
	current, limit uint64
}{
	{"core", unix.RLIMIT_CORE, maxCore, maxCore},
	{"processes", unix.RLIMIT_NPROC, maxProcesses, maxProcesses}, // counted in the user namespace, since Linux 5.14
	{"locked memory", unix.RLIMIT_MEMLOCK, maxLocked, maxLocked},
	{"message queues", unix.RLIMIT_MSGQUEUE, maxQueues, maxQueues},
	{"pending signals", unix.RLIMIT_SIGPENDING, maxPending, maxPending},
	{"real time", unix.RLIMIT_RTPRIO, 0, 0},
	{"priority", unix.RLIMIT_NICE, 0, 0},
	{"open files", unix.RLIMIT_NOFILE, usualOpenFiles, maxOpenFiles},
}

// limitResources lowers the limits of init, and so of CMD. The Go runtime has raised init's own number of open files and
// forgets the one before only because this one is set by way of it.
func limitResources() error {
	for _, l := range limits {
		fail := func(err error) error { return &SetupError{Step: StepConfine, Path: "limit of " + l.what, Err: err} }
		var old unix.Rlimit
		if err := unix.Getrlimit(l.resource, &old); err != nil {
			return fail(err)
		}
		now := unix.Rlimit{Cur: min(l.current, old.Max), Max: min(l.limit, old.Max)}
		if err := unix.Setrlimit(l.resource, &now); err != nil {
			return fail(err)
		}
	}
	return nil
}

// version is a kernel's, as in uname(2).
type version struct{ major, minor int }

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

func kernelVersion() version {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return version{}
	}
	var v version
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &v.major, &v.minor)
	return v
}

// ownsPidMax says whether kernel.pid_max belongs to the pid namespace. Before it did, it was the whole machine's, and root
// could have changed it from here.
func (v version) ownsPidMax() bool { return v.atLeast(6, 14) }

// limitsProcesses says whether a fork bomb inside ends at maxProcesses: by the pid namespace's own kernel.pid_max, or by
// RLIMIT_NPROC, which counts the user namespace's processes alone since Linux 5.14 and does not hold for the host's root.
func limitsProcesses(v version, uid int) bool {
	return v.ownsPidMax() || uid != 0 && v.atLeast(5, 14)
}

// limitNamespace writes the limits that belong to the namespaces. Network and mount namespaces are still made after it.
func limitNamespace(proc tree) error {
	settings := [][2]string{
		{"sys/user/max_inotify_instances", strconv.Itoa(maxInotify)},
		{"sys/user/max_inotify_watches", strconv.Itoa(inotifyWatches)},
	}
	if kernelVersion().ownsPidMax() {
		settings = append(settings, [2]string{"sys/kernel/pid_max", strconv.Itoa(maxProcesses)})
	}
	score, err := readSetting(proc, "self/oom_score_adj")
	if err != nil {
		return &SetupError{Step: StepConfine, Path: "/proc/self/oom_score_adj", Err: err}
	}
	if n, err := strconv.Atoi(score); err == nil && n < firstToGo {
		settings = append(settings, [2]string{"self/oom_score_adj", strconv.Itoa(firstToGo)})
	}
	return writeSettings(proc, settings)
}

// namespaceLimits are the open settings user.max_*_namespaces.
type namespaceLimits []int

// openNamespaceLimits opens them while they can be written: when the root is built, they cannot.
func openNamespaceLimits(proc tree) (namespaceLimits, error) {
	var n namespaceLimits
	for _, kind := range []string{"user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time"} {
		name := "sys/user/max_" + kind + "_namespaces"
		fd, err := unix.Openat(proc.fd, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			closeAll(n)
			return nil, &SetupError{Step: StepConfine, Path: "/proc/" + name, Err: err}
		}
		n = append(n, fd)
	}
	return n, nil
}

// limit sets how many namespaces there may be of each kind. With 0 nobody makes one any more, with or without a filter:
// not even a mount that hangs nowhere, which is why it comes after the root.
func (n namespaceLimits) limit(more int) error {
	defer closeAll(n)
	for _, fd := range n {
		if _, err := unix.Write(fd, []byte(strconv.Itoa(more))); err != nil {
			return &SetupError{Step: StepConfine, Path: "user.max_*_namespaces", Err: err}
		}
	}
	return nil
}

// writeSettings leaves out what the kernel does not have.
func writeSettings(proc tree, settings [][2]string) error {
	for _, s := range settings {
		if err := writeSetting(proc, s[0], s[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &SetupError{Step: StepConfine, Path: "/proc/" + s[0], Err: err}
		}
	}
	return nil
}

func readSetting(proc tree, name string) (string, error) {
	fd, err := unix.Openat(proc.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buf[:n])), nil
}
