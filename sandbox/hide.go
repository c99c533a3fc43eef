//go:build linux

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shownProc are the entries of /proc that CMD sees, beside the processes: what is the sandbox's own, and what programs
// read to know processors, memory and the kernel's version. The others tell about the machine and what else runs on it
// (interrupts, slabs, timers, keys), or would be root's to write without any capability; and a kernel may add some.
var shownProc = []string{
	"cgroups", "cpuinfo", "filesystems", "loadavg", "meminfo", "mounts", "net", "self", "stat", "sys", "sysvipc", "thread-self",
	"uptime", "version", "vmstat",
}

// shownSys are the directories of /sys that CMD sees. Those in ownSys are the sandbox's own and shown of a new sysfs only.
var (
	shownSys = []string{"devices/system/cpu", "devices/system/node", "kernel/mm/transparent_hugepage"}
	ownSys   = []string{"class/net", "devices/virtual/net"}
)

// mountKernel mounts /proc and /sys. With profile engine nothing of them is covered: the kernel lets nobody mount a /proc
// that shows more than the one there is, and containers need their own. Nor need it be, since the host's root is nobody there.
func (r root) mountKernel(proc tree, spec Spec) error {
	if err := r.mount(proc, "/proc"); err != nil {
		return err
	}
	if spec.isEngine() {
		return r.mountEngineSys()
	}
	if err := r.mountSys(); err != nil {
		return err
	}
	settings, err := cloneTree(r.fd, "proc/sys", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	if err := r.cover(settings, "/proc/sys"); err != nil {
		return err
	}
	return r.hideProc()
}

// hideProc covers every entry of /proc that is neither a process nor in shownProc.
func (r root) hideProc() error {
	fd, err := r.resolve("/proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return &SetupError{Step: StepMount, Path: "/proc", Err: err}
	}
	d := os.NewFile(uintptr(fd), "/proc")
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return &SetupError{Step: StepMount, Path: "/proc", Err: err}
	}
	var hidden []string
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil && !slices.Contains(shownProc, name) {
			hidden = append(hidden, "/proc/"+name)
		}
	}
	return r.hideAll(hidden, anything)
}

// stagedSys is where a whole sysfs lies while CMD's /sys is put together.
const stagedSys = stageDir + "/sys"

// mountSys shows parts of a sysfs of the sandbox's own. Where the kernel refuses one (the visible /sys is masked) they
// are the host's, without its network devices.
func (r root) mountSys() error {
	at, from, shown := unix.AT_FDCWD, "/sys/", shownSys
	if t, err := newTree("sysfs", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC); err == nil {
		if err := r.mount(t, stagedSys); err != nil {
			return err
		}
		at, from, shown = r.fd, stagedSys[1:]+"/", slices.Concat(shownSys, ownSys)
	}
	if err := r.mountNew("/sys", "tmpfs", flagsWritable, "mode=0755", "size=64k"); err != nil {
		return err
	}
	for _, name := range shown {
		t, err := cloneTree(at, from+name, flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.mount(t, "/sys/"+name); err != nil {
			return err
		}
	}
	return r.freeze("/sys")
}

// mountEngineSys mounts /sys and, to be read, the sandbox's own part of the control groups, where engines look for what
// kind the host has. A host without the second kind has none inside.
func (r root) mountEngineSys() error {
	if err := r.mountNew("/sys", "sysfs", flagsData); err != nil {
		return err
	}
	t, err := newTree("cgroup2", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil
	}
	return r.mount(t, "/sys/fs/cgroup")
}

// anything tells hideAll not to look at the type.
const anything = 0

// hideAll covers a directory by an empty one, everything else by an empty file. What is not there, or cannot be reached
// from here, needs no cover; with a type, neither does what is something else inside.
func (r root) hideAll(paths []string, only uint32) error {
	for _, name := range paths {
		fd, err := r.resolve(name, unix.O_PATH)
		switch err {
		case nil:
		case unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP:
			continue
		default:
			return &SetupError{Step: StepMount, Path: name, Err: fmt.Errorf("hide: %w", err)}
		}
		if err := r.hide(fd, name, only); err != nil {
			return err
		}
	}
	return nil
}

func (r root) hide(at int, name string, only uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		unix.Close(at)
		return &SetupError{Step: StepMount, Path: name, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if only != anything && kind != only {
		unix.Close(at)
		return nil
	}
	from := blankFile
	if kind == unix.S_IFDIR {
		from = blankDir
	}
	t, err := openTree(r.fd, from[1:])
	if err != nil {
		unix.Close(at)
		return err
	}
	return t.attach(at, name)
}

// blankFile and blankDir are mounts of something empty and read-only, to be cloned over what is hidden: that takes a
// quarter of the time of a new one for each.
const (
	blankFile = stageDir + "/blank"
	blankDir  = stageDir + "/empty"
)

func (r root) mountBlanks() error {
	file, err := r.stageFile(nil)
	if err != nil {
		return err
	}
	if err := r.mount(file, blankFile); err != nil {
		return err
	}
	return r.mountNew(blankDir, "tmpfs", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC, "size=4k", "mode=0555")
}

// hostSockets lists the path names to which UNIX sockets of the caller's network namespace are bound. A name reaches its
// socket from any network namespace in which the path is visible, read-only or not.
func hostSockets() ([]string, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("list UNIX sockets of the host: %w", err)
	}
	defer f.Close()
	var paths []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path; abstract names start with @.
		if i := strings.Index(sc.Text(), " /"); i >= 0 {
			paths = append(paths, sc.Text()[i+1:])
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("list UNIX sockets of the host: %w", err)
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// socketPaths says where the host's sockets would be seen inside. One that is itself a share was asked for by name.
func socketPaths(o orders) []string {
	shares := append(slices.Clone(o.Spec.Shares), Share{Host: o.Spec.Home, Inside: o.Spec.HomePath})
	var paths []string
	for _, s := range o.Sockets {
		asked := func(sh Share) bool { return path.Clean(sh.Host) == s }
		if !isSocket(s) || slices.ContainsFunc(o.Spec.Shares, asked) {
			continue
		}
		paths = append(paths, s)
		for _, sh := range shares {
			if rel, ok := below(s, sh.Host); ok {
				paths = append(paths, path.Join(sh.Inside, rel))
			}
		}
	}
	return paths
}

func isSocket(p string) bool {
	var st unix.Stat_t
	return unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// below returns p relative to dir, as named or with dir's symbolic links resolved.
func below(p, dir string) (string, bool) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", false
	}
	for _, d := range []string{path.Clean(dir), real} {
		if rel, ok := strings.CutPrefix(p, d); ok && (rel == "" || rel[0] == '/') {
			return rel, true
		}
	}
	return "", false
}
