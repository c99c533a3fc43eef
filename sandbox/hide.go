//go:build linux

package sandbox

import (
	"bufio"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hiddenKernel is what /proc and /sys tell or do about the machine and not about the sandbox.
var hiddenKernel = []string{
	"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
}

// frozenKernel is what of /proc would be writable by an owner without any capability, as root is.
var frozenKernel = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

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
	for _, name := range frozenKernel {
		t, err := cloneTree(r.fd, name[1:], flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.cover(t, name); err != nil {
			return err
		}
	}
	return r.hideAll(hiddenKernel, anything)
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

// mountSys mounts a sysfs that shows the sandbox's own network devices. Where the kernel refuses one (the visible /sys
// is masked) there is only what programs read to count processors.
func (r root) mountSys() error {
	t, err := newTree("sysfs", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
	if err == nil {
		return r.mount(t, "/sys")
	}
	if err := r.mountNew("/sys", "tmpfs", flagsWritable, "mode=0755", "size=64k"); err != nil {
		return err
	}
	const cpus = "/sys/devices/system/cpu"
	t, err = cloneTree(unix.AT_FDCWD, cpus, flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
	if err == nil {
		err = r.mount(t, cpus)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return r.freeze("/sys")
}

// anything tells hideAll not to look at the type.
const anything = 0

// hideAll covers a directory by an empty one, everything else by an empty file. What is not there, or cannot be reached
// from here, needs no cover; with a type, neither does what is something else inside.
func (r root) hideAll(paths []string, only uint32) error {
	for _, name := range paths {
		fd, err := r.resolve(name, unix.O_PATH)
		if err != nil {
			continue
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
	t, err := r.blank(kind == unix.S_IFDIR)
	if err != nil {
		unix.Close(at)
		return err
	}
	return t.attach(at, name)
}

// blank returns something empty and read-only.
func (r root) blank(dir bool) (tree, error) {
	if dir {
		return newTree("tmpfs", flagsReadOnly|unix.MOUNT_ATTR_NOEXEC, "size=4k", "mode=0555")
	}
	return r.stageFile(nil)
}

// hostSockets lists the path names to which UNIX sockets of the caller's network namespace are bound. A name reaches its
// socket from any network namespace in which the path is visible, read-only or not.
func hostSockets() []string {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil
	}
	defer f.Close()
	var paths []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path; abstract names start with @.
		if i := strings.Index(sc.Text(), " /"); i >= 0 {
			paths = append(paths, sc.Text()[i+1:])
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
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
