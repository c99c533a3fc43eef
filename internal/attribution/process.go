package attribution

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxMembers bounds the processes of a sandbox that are looked at, maxLinks the open files over all of them in one
	// lookup, maxStatus and maxArgs what is read of a process.
	maxMembers = 512
	maxLinks   = 16384
	maxStatus  = 8 << 10
	maxArgs    = 4 << 10
)

// members returns the process ids of init and everything below it, parents first.
func members(initPID int) []int {
	pids := []int{initPID}
	for i := 0; i < len(pids) && len(pids) < maxMembers; i++ {
		tasks := filepath.Join("/proc", strconv.Itoa(pids[i]), "task")
		entries, err := os.ReadDir(tasks)
		if err != nil {
			continue
		}
		for _, task := range entries {
			list, err := os.ReadFile(filepath.Join(tasks, task.Name(), "children"))
			if i == 0 && errors.Is(err, os.ErrNotExist) {
				return sameNamespace(initPID)
			}
			for _, child := range strings.Fields(string(list)) {
				if pid, err := strconv.Atoi(child); err == nil && len(pids) < maxMembers {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// sameNamespace returns the processes in init's pid namespace, for kernels that have no list of children.
func sameNamespace(initPID int) []int {
	namespace, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(initPID), "ns/pid"))
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || len(pids) == maxMembers {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err == nil && ns == namespace {
			pids = append(pids, pid)
		}
	}
	return pids
}

// kept is a process that opened sockets lately, with what is needed to look at it again. Its descriptors belong to the
// process itself and not to its id: once it has ended they find nothing, whoever has the id then.
type kept struct {
	pid     int // in the caller's namespace
	inner   int // in its own, 0 before it is known
	dir     int // /proc/PID
	fds     int // /proc/PID/fd
	cmdline int // /proc/PID/cmdline
	last    int // the descriptor found last, -1 before

	exe  string
	line string // the command line as it was read last, and args made of it
	args []string
}

// openProcess opens the descriptors of a process, to look for a socket there. Close it.
func openProcess(pid int) (*kept, error) {
	k := &kept{pid: pid, fds: -1, cmdline: -1, last: -1}
	var err error
	if k.dir, err = unix.Open("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if k.fds, err = unix.Openat(k.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// identify reads and opens what is needed to say who the process is. It is false when the process has ended.
func (k *kept) identify() bool {
	if k.inner != 0 {
		return true
	}
	status, err := readAt(k.dir, "status", maxStatus)
	if err != nil {
		return false
	}
	if k.cmdline, err = unix.Openat(k.dir, "cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return false
	}
	k.inner = innerPID(status)
	return k.inner != 0
}

// ended reports whether there is no such process any more.
func (k *kept) ended() bool {
	var b [1]byte
	_, err := unix.Pread(k.cmdline, b[:], 0)
	return err == unix.ESRCH
}

func (k *kept) close() {
	for _, fd := range []int{k.dir, k.fds, k.cmdline} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// holds reports whether the process has the socket as its descriptor fd.
func (k *kept) holds(fd string, inode uint32) bool {
	var link [64]byte
	n, err := unix.Readlinkat(k.fds, fd, link[:])
	return err == nil && isSocketLink(link[:n], inode)
}

// search looks through the descriptors of the process for the socket. Each one that it looks at is taken off links. (An
// os.File would try to have the runtime's poller wait for a directory of /proc.)
func (k *kept) search(inode uint32, links *int) (fd string, ok bool) {
	if _, err := unix.Seek(k.fds, 0, io.SeekStart); err != nil {
		return "", false
	}
	var entries [8 << 10]byte
	for *links > 0 {
		n, err := unix.ReadDirent(k.fds, entries[:])
		if err != nil || n <= 0 {
			break
		}
		_, _, names := unix.ParseDirent(entries[:n], -1, nil)
		for _, name := range names[:min(len(names), *links)] {
			*links--
			if k.holds(name, inode) {
				return name, true
			}
		}
	}
	return "", false
}

// guess tries the descriptors around the one that was found last, the nearest first: a process that opens and closes its
// sockets gets the same numbers again.
func (k *kept) guess(inode uint32, links *int) (fd string, ok bool) {
	if k.last < 0 {
		return "", false
	}
	for i := range 2 * guesses {
		n := k.last + (i+1)/2*(1-i%2*2) // last, -1, +1, -2, +2 ...
		if n < 0 || *links <= 0 {
			continue
		}
		*links--
		if fd = strconv.Itoa(n); k.holds(fd, inode) {
			return fd, true
		}
	}
	return "", false
}

// describe reads what the process is now: it may execute another program at any time. It is false when the process has ended.
func (k *kept) describe() (Process, bool) {
	var buf [max(unix.PathMax, maxArgs)]byte
	if n, err := unix.Readlinkat(k.dir, "exe", buf[:]); err != nil {
		k.exe = ""
	} else if k.exe != string(buf[:n]) {
		k.exe = string(buf[:n])
	}
	n, err := unix.Pread(k.cmdline, buf[:maxArgs], 0)
	switch {
	case err == unix.ESRCH:
		return Process{}, false
	case err != nil || n == 0:
		k.line, k.args = "", nil
	case k.line != string(buf[:n]):
		k.line = string(buf[:n])
		k.args = strings.Split(strings.TrimSuffix(k.line, "\x00"), "\x00")
	}
	return Process{PID: k.inner, Exe: k.exe, Args: k.args}, true
}

// isSocketLink reports whether a link under /proc/PID/fd is to the socket.
func isSocketLink(link []byte, inode uint32) bool {
	var want [32]byte
	return string(link) == string(append(strconv.AppendUint(append(want[:0], "socket:["...), uint64(inode), 10), ']'))
}

// innerPID returns the process id in the innermost namespace, the last number of the line NSpid; 0 without that line.
func innerPID(status []byte) int {
	_, rest, ok := bytes.Cut(status, []byte("\nNSpid:"))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(string(fields[len(fields)-1]))
	return pid
}

// readAt reads at most limit octets of the file name in the directory dir.
func readAt(dir int, name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, limit)
	for len(b) < limit {
		n, err := unix.Read(fd, b[len(b):limit])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
	}
	return b, nil
}
