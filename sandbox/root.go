//go:build linux

package sandbox

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// systemDirs are the children of the root directory that hold programs, libraries and configuration.
var systemDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "nix", "gnu", "snap"}

// deviceNodes are the devices inside; none of them reaches hardware or network.
var deviceNodes = []string{"null", "zero", "full", "random", "urandom", "tty"}

// newRootAt is where the new root is put together, in our own mount namespace only. It exists wherever a binary could
// be executed by way of /proc/self/exe, and nothing needs what it covers.
const newRootAt = "/proc"

// graft is a host path, already open, and its place inside.
type graft struct {
	tree tree
	at   string
}

// buildRoot makes CMD's file system and enters it. All of the host's paths are opened first, so that what is covered
// first does not matter.
func buildRoot(o orders, proc tree) error {
	spec := o.Spec
	grafts, err := collect(spec)
	if err != nil {
		return err
	}
	devices, err := collectDevices()
	if err != nil {
		return err
	}
	sockets, secrets := socketPaths(o), slices.Clone(spec.Hide)
	if spec.FS == "private" && os.Geteuid() == 0 {
		secrets = append(secrets, rootSecrets()...)
	}
	passwd := passwdWith(spec.HomePath)

	r, err := newRoot(spec.FS)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return r.mountVolatile(spec.FS == "private") },
		r.mountStage,
		func() error { return r.mountDevices(devices) },
		func() error { return r.mountKernel(proc) },
		func() error { return r.mountGrafts(grafts) },
		func() error { return r.writeEtc(spec, passwd) },
		func() error { return r.writeFiles(spec) },
		func() error { return r.hideAll(secrets, anything) },
		func() error { return r.hideAll(sockets, unix.S_IFSOCK) },
		r.dropStage,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if spec.FS == "host" {
		return nil
	}
	if err := r.freeze("/"); err != nil {
		return err
	}
	return r.enter()
}

// collect opens every host path that is to be seen inside, parents before children.
func collect(spec Spec) ([]graft, error) {
	var grafts []graft
	add := func(host, inside string, flags uint64) error {
		t, err := cloneTree(unix.AT_FDCWD, host, flags)
		if err == nil {
			grafts = append(grafts, graft{t, path.Clean(inside)})
		}
		return err
	}
	if spec.FS == "private" {
		for _, name := range append(directSystemDirs(), "/var/lib/ca-certificates") {
			if err := add(name, name, flagsReadOnly); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	if spec.Home != "" {
		if err := add(spec.Home, spec.HomePath, flagsWritable); err != nil {
			return nil, err
		}
	} else if spec.FS == "private" {
		t, err := newTree("tmpfs", flagsWritable, "mode=0700")
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, graft{t, path.Clean(spec.HomePath)})
	}
	for _, p := range spec.ReadOnly {
		if err := add(p, p, flagsReadOnly); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, sh := range spec.Shares {
		flags := uint64(flagsWritable)
		if sh.ReadOnly {
			flags = flagsReadOnly
		}
		if err := add(sh.Host, sh.Inside, flags); err != nil {
			return nil, err
		}
	}
	depth := func(g graft) int { return strings.Count(g.at, "/") }
	slices.SortStableFunc(grafts, func(a, b graft) int { return cmp.Compare(depth(a), depth(b)) })
	return grafts, nil
}

// directSystemDirs are those of systemDirs that are directories; the others are links that newRoot makes again.
func directSystemDirs() []string {
	var dirs []string
	for _, name := range systemDirs {
		if fi, err := os.Lstat("/" + name); err == nil && fi.IsDir() {
			dirs = append(dirs, "/"+name)
		}
	}
	return dirs
}

func collectDevices() ([]graft, error) {
	var grafts []graft
	for _, name := range deviceNodes {
		t, err := cloneTree(unix.AT_FDCWD, "/dev/"+name, flagsDevice)
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, graft{t, "/dev/" + name})
	}
	return grafts, nil
}

// newRoot makes the directory to build in: for FS "private" an empty file system in memory, for "host" the host's.
func newRoot(fsMode string) (root, error) {
	open := func(p string) (root, error) {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return root{}, &SetupError{Step: StepMount, Path: p, Err: err}
		}
		return root{fd}, nil
	}
	if fsMode == "host" {
		return open("/")
	}
	links := map[string]string{}
	for _, name := range systemDirs {
		if to, err := os.Readlink("/" + name); err == nil {
			links[name] = to
		}
	}
	t, err := newTree("tmpfs", flagsWritable, "mode=0755", "size=4m")
	if err != nil {
		return root{}, err
	}
	at, err := open(newRootAt)
	if err != nil {
		return root{}, err
	}
	if err := t.attach(at.fd, "/"); err != nil {
		return root{}, err
	}
	r, err := open(newRootAt)
	if err != nil {
		return root{}, err
	}
	for name, to := range links {
		if err := r.symlink(to, name); err != nil {
			return root{}, err
		}
	}
	return r, nil
}

// mountVolatile makes the directories that live in memory and end with the sandbox.
func (r root) mountVolatile(private bool) error {
	type volatile struct {
		at      string
		options []string
	}
	list := []volatile{
		{"/tmp", []string{"mode=1777"}},
		{"/run", []string{"mode=0755", "size=64m"}},
		{"/var/tmp", []string{"mode=1777"}},
	}
	if !private {
		list = slices.DeleteFunc(list, func(v volatile) bool { return !isDir(v.at) })
		if isDir("/var/run") {
			list = append(list, volatile{"/var/run", []string{"mode=0755", "size=64m"}})
		}
	}
	for _, v := range list {
		if err := r.mountNew(v.at, "tmpfs", flagsWritable, v.options...); err != nil {
			return err
		}
	}
	user := "/run/user/" + strconv.Itoa(os.Geteuid())
	at, err := r.makeEntry(user, true)
	if err != nil {
		return err
	}
	unix.Close(at)
	if err := unix.Fchmodat(r.fd, user[1:], 0o700, 0); err != nil {
		return &SetupError{Step: StepMount, Path: user, Err: err}
	}
	if !private {
		return nil
	}
	if to, err := os.Readlink("/run/current-system"); err == nil { // where NixOS has its programs
		if err := r.symlink(to, "run/current-system"); err != nil {
			return err
		}
	}
	return r.symlink("../run", "var/run")
}

// isDir does not follow symbolic links.
func isDir(p string) bool {
	fi, err := os.Lstat(p)
	return err == nil && fi.IsDir()
}

// mountDevices makes /dev with the harmless nodes and terminals of its own.
func (r root) mountDevices(devices []graft) error {
	if err := r.mountNew("/dev", "tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode=0755", "size=64k"); err != nil {
		return err
	}
	if err := r.mountGrafts(devices); err != nil {
		return err
	}
	if err := r.mountNew("/dev/pts", "devpts", flagsDevice, "ptmxmode=0666", "mode=0620"); err != nil {
		return err
	}
	if err := r.mountNew("/dev/shm", "tmpfs", flagsData, "mode=1777"); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := r.symlink(to, "dev/"+name); err != nil {
			return err
		}
	}
	return r.freeze("/dev")
}

func (r root) mountGrafts(grafts []graft) error {
	for _, g := range grafts {
		if err := r.mount(g.tree, g.at); err != nil {
			return err
		}
	}
	return nil
}

// freeze makes one mount, without those beneath it, read-only.
func (r root) freeze(name string) error {
	fd, err := r.resolve(name, unix.O_PATH)
	if err == nil {
		defer unix.Close(fd)
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		return &SetupError{Step: StepMount, Path: name, Err: err}
	}
	return nil
}

// enter makes the new root the root of every process in the mount namespace and drops the host's.
func (r root) enter() error {
	fail := func(err error) error { return &SetupError{Step: StepMount, Path: "pivot_root", Err: err} }
	defer unix.Close(r.fd)
	if err := unix.Fchdir(r.fd); err != nil {
		return fail(err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail(err)
	}
	// The old root now lies over the new one; MNT_DETACH takes all of its mounts with it.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail(err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fail(err)
	}
	return nil
}

// rootSecrets are what only root may read below /etc: without a capability root inside still owns these files.
func rootSecrets() []string {
	var hidden []string
	filepath.WalkDir("/etc", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		fi, err := d.Info()
		if err != nil || fi.Mode().Perm()&0o004 != 0 {
			return nil
		}
		hidden = append(hidden, p)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return hidden
}
