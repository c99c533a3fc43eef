//go:build linux

package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of the search for namespaces.
const (
	maxProcesses  = 1 << 16 // of the host
	maxNamespaces = 1 << 14 // whose nsid is asked for
	maxMembers    = 4096    // processes of one namespace among which the first is sought
	maxMounts     = 16 << 20
)

// space is a network namespace as it can be seen from here.
type space struct {
	inode uint64
	nsid  int    // -1 where it has none, or none is wanted
	pids  []int  // its processes, by id
	mount string // the first path at which it is mounted; "" for none
}

// namespaces finds the namespaces at the other ends of the ports, by nsid.
func (f *Finder) namespaces(ports []Port) (map[int]*space, error) {
	wanted := map[int]bool{}
	for _, p := range ports {
		if p.NSID >= 0 {
			wanted[p.NSID] = true
		}
	}
	found := map[int]*space{}
	if len(wanted) == 0 {
		return found, nil
	}
	seen, err := f.seen()
	if err != nil {
		return nil, err
	}
	if len(seen) > maxNamespaces {
		return nil, fmt.Errorf("look at namespaces: %d: %w", len(seen), ErrTooMany)
	}
	for _, s := range seen {
		ns, err := f.open(s)
		if err != nil {
			continue // it has ended
		}
		s.nsid, err = f.route.GetNetNsIdByFd(int(ns.Fd()))
		ns.Close()
		if err == nil && wanted[s.nsid] {
			found[s.nsid] = s
		}
		if len(found) == len(wanted) {
			break
		}
	}
	return found, nil
}

// seen returns the namespaces that a process is in or that are mounted, but for our own.
func (f *Finder) seen() (map[uint64]*space, error) {
	var own unix.Stat_t
	if err := unix.Fstat(int(f.home.Fd()), &own); err != nil {
		return nil, fmt.Errorf("look at network namespace: %w", err)
	}
	seen := map[uint64]*space{}
	at := func(inode uint64) *space {
		if seen[inode] == nil {
			seen[inode] = &space{inode: inode, nsid: -1}
		}
		return seen[inode]
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		var st unix.Stat_t
		if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/net", &st) != nil || st.Ino == own.Ino {
			continue
		}
		if s := at(st.Ino); len(s.pids) < maxMembers {
			s.pids = append(s.pids, pid)
		}
	}
	mounts, err := readFile("/proc/thread-self/mountinfo", maxMounts)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	for inode, path := range mountedNamespaces(mounts) {
		if inode != own.Ino {
			at(inode).mount = path
		}
	}
	return seen, nil
}

// processes returns the ids of the host's other processes.
func processes() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid != os.Getpid() { // our own threads go from one namespace to another
			pids = append(pids, pid)
		}
	}
	if len(pids) > maxProcesses {
		return nil, fmt.Errorf("list processes: %d: %w", len(pids), ErrTooMany)
	}
	slices.Sort(pids)
	return pids, nil
}

// mountedNamespaces returns the network namespaces in a mountinfo file (proc_pid_mountinfo(5)), by inode. Of several paths
// of one it is the least.
func mountedNamespaces(mountinfo []byte) map[uint64]string {
	found := map[uint64]string{}
	for line := range strings.Lines(string(mountinfo)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		digits, ok := strings.CutPrefix(fields[3], "net:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
		if !ok || err != nil || !slices.Contains(fields[5:], "nsfs") {
			continue
		}
		path := unescapeMount(fields[4])
		if have, ok := found[inode]; !ok || path < have {
			found[inode] = path
		}
	}
	return found
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// open opens the namespace by one of its processes or its mount; [ErrGone] if none has it any more.
func (f *Finder) open(s *space) (*os.File, error) {
	for _, pid := range s.pids {
		if ns, err := openNamespace("/proc/"+strconv.Itoa(pid)+"/ns/net", s.inode); err == nil {
			return ns, nil
		}
	}
	if s.mount != "" {
		if ns, err := openNamespace(s.mount, s.inode); err == nil {
			return ns, nil
		}
	}
	return nil, fmt.Errorf("open namespace: %w", ErrGone)
}

// openNamespace opens the network namespace at path, which must be the one with this inode, if inode is not 0.
func openNamespace(path string, inode uint64) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace %q: %w", path, err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil || fs.Type != unix.NSFS_MAGIC || inode != 0 && st.Ino != inode {
		unix.Close(fd)
		return nil, fmt.Errorf("open namespace %q: %w", path, ErrGone)
	}
	return os.NewFile(uintptr(fd), path), nil
}
