//go:build linux

package container

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what is read of a process, in octets.
const (
	maxStat    = 4 << 10
	maxCgroup  = 64 << 10
	maxCommand = 32 << 10
)

// process is a process, known by a descriptor of its directory: once it has ended nothing can be read there, even if its
// id is used again.
type process struct {
	dir     int
	pid     int
	parent  int
	started uint64 // ticks since the host started
}

// openProcess opens the process with this id. Close it.
func openProcess(pid int) (*process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, ErrGone)
	}
	p := &process{dir: dir, pid: pid}
	stat, err := p.read("stat", maxStat)
	ok := false
	if err == nil {
		p.parent, p.started, ok = parseStat(stat)
	}
	if !ok {
		p.close()
		return nil, fmt.Errorf("look at process %d: %w", pid, ErrGone)
	}
	return p, nil
}

func (p *process) close() { unix.Close(p.dir) }

// parseStat reads the parent's id and the start time (fields 4 and 22) of a stat file (proc_pid_stat(5)). Field 2 is the
// name, which the process chose and which may hold spaces and parentheses.
func parseStat(stat []byte) (parent int, started uint64, ok bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return 0, 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	started, err2 := strconv.ParseUint(fields[19], 10, 64)
	return parent, started, err == nil && err2 == nil && fields[0] != "Z"
}

// namespace returns the inode of the process's namespace of a kind: "net", "user".
func (p *process) namespace(kind string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(p.dir, "ns/"+kind, &st, 0); err != nil {
		return 0, fmt.Errorf("look at process %d: %w", p.pid, err)
	}
	return st.Ino, nil
}

// exe returns the path of the process's program as the kernel tells it, "" where it does not.
func (p *process) exe() string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir, "exe", buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func (p *process) read(name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, limit)
}

// members returns the processes of the namespace, those that started first before the others. Close each.
func (s *space) members() []*process {
	var all []*process
	for _, pid := range s.pids {
		p, err := openProcess(pid)
		if err != nil {
			continue
		}
		if inode, err := p.namespace("net"); err != nil || inode != s.inode {
			p.close()
			continue
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b *process) int { return cmp.Compare(a.started, b.started) })
	return all
}

// conmon is what podman tells the monitor of a container.
type conmon struct{ id, name, bundle string }

// monitor returns what the process's parent was told if that is a conmon of the host: the program of that name in our own
// user namespace, run by our own user, and not in the network namespace net. No container can make such a parent for its
// first process.
func (p *process) monitor(net uint64) (conmon, bool) {
	parent, err := openProcess(p.parent)
	if err != nil {
		return conmon{}, false
	}
	defer parent.close()
	self, err := openProcess(unix.Getpid())
	if err != nil {
		return conmon{}, false
	}
	defer self.close()
	ours, err := self.namespace("user")
	theirs, err2 := parent.namespace("user")
	inside, err3 := parent.namespace("net")
	var st unix.Stat_t
	if errors.Join(err, err2, err3, unix.Fstatat(parent.dir, "stat", &st, 0)) != nil || ours != theirs || inside == net || int(st.Uid) != unix.Geteuid() {
		return conmon{}, false
	}
	if filepath.Base(strings.TrimSuffix(parent.exe(), " (deleted)")) != "conmon" {
		return conmon{}, false
	}
	line, err := parent.read("cmdline", maxCommand)
	if err != nil {
		return conmon{}, false
	}
	again, err := p.read("stat", maxStat) // still the parent
	if now, _, ok := parseStat(again); err != nil || !ok || now != p.parent {
		return conmon{}, false
	}
	return parseConmon(strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00"))
}

// parseConmon reads a conmon's arguments. The first of a kind counts: those after it may be of the command that it runs at
// the container's end.
func parseConmon(args []string) (c conmon, ok bool) {
	for i := 1; i+1 < len(args); i++ {
		var into *string
		switch args[i] {
		case "-c", "--cid":
			into = &c.id
		case "-n", "--name":
			into = &c.name
		case "-b", "--bundle":
			into = &c.bundle
		default:
			continue
		}
		if i++; *into == "" {
			*into = args[i]
		}
	}
	return c, containerID(c.id)
}
