package attribution

import (
	"bytes"
	"errors"
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

// descriptorOf returns the number of the descriptor by which process pid holds the socket. Each descriptor that it looks
// at is taken off links. (An os.File would try to have the runtime's poller wait for a directory of /proc.)
func descriptorOf(pid int, inode uint32, links *int) (fd string, ok bool) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/fd", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(dir)
	want := socketLink(inode)
	var entries [8 << 10]byte
	var link [64]byte
	for *links > 0 {
		n, err := unix.ReadDirent(dir, entries[:])
		if err != nil || n <= 0 {
			break
		}
		_, _, names := unix.ParseDirent(entries[:n], -1, nil)
		for _, name := range names[:min(len(names), *links)] {
			*links--
			n, err := unix.Readlinkat(dir, name, link[:])
			if err == nil && string(link[:n]) == want {
				return name, true
			}
		}
	}
	return "", false
}

// holds reports whether process pid has the socket as its descriptor fd.
func holds(pid int, fd string, inode uint32) bool {
	var buf [64]byte
	n, err := unix.Readlink("/proc/"+strconv.Itoa(pid)+"/fd/"+fd, buf[:])
	return err == nil && string(buf[:n]) == socketLink(inode)
}

// at describes the process that holds the socket where h says, if it still does. All is read through one descriptor of
// the process's directory, so that a process id that is used again cannot mix two processes.
func at(h holder, inode uint32) (Process, bool) {
	dir, err := unix.Open(filepath.Join("/proc", strconv.Itoa(h.pid)), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Process{}, false
	}
	defer unix.Close(dir)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, "fd/"+h.fd, buf)
	if err != nil || string(buf[:n]) != socketLink(inode) {
		return Process{}, false
	}
	status, err := readAt(dir, "status", maxStatus)
	if err != nil {
		return Process{}, false
	}
	p := Process{PID: innerPID(status)}
	if n, err := unix.Readlinkat(dir, "exe", buf); err == nil {
		p.Exe = string(buf[:n])
	}
	if line, err := readAt(dir, "cmdline", maxArgs); err == nil && len(line) > 0 {
		p.Args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	}
	return p, p.PID != 0
}

func socketLink(inode uint32) string { return "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]" }

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
