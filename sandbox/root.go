//go:build linux

package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// newRootAt is where the new root is put together, in our own mount namespace only. It exists wherever a binary could
// be executed by way of /proc/self/exe, and nothing needs what it covers.
const newRootAt = "/proc"

// buildRoot makes CMD's file system and enters it. All of the host's paths are opened first, so that what is covered
// first does not matter.
func buildRoot(o orders, proc tree) error {
	spec := o.Spec
	grafts, err := collect(o)
	if err != nil {
		return err
	}
	devices, err := collectDevices(spec)
	if err != nil {
		return err
	}
	sockets, secrets := socketPaths(o), slices.Clone(spec.Hide)
	if spec.FS == "private" && o.AsRoot {
		secrets = append(secrets, rootSecrets()...)
	}
	passwd := passwdWith(spec.HomePath, o.owner())

	r, err := newRoot(spec.FS, o.owner())
	if err != nil {
		return err
	}
	private := spec.FS == "private"
	freeze := func(name string) func() error {
		return func() error {
			if !private {
				return nil // not ours to freeze
			}
			return r.freeze(name)
		}
	}
	steps := []func() error{
		func() error { return r.mountVolatile(o) },
		r.mountStage,
		func() error { return r.mountDevices(devices) },
		func() error { return r.mountKernel(proc, spec) },
		func() error { return r.mountGrafts(grafts) },
		func() error { return r.writeEtc(o, passwd) },
		freeze("/etc"),
		func() error { return r.writeFiles(spec) },
		func() error { return r.hideAll(secrets, anything) },
		func() error { return r.hideAll(sockets, unix.S_IFSOCK) },
		r.dropStage,
		freeze("/"),
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if !private {
		return nil
	}
	return r.enter()
}

// newRoot makes the directory to build in: for FS "private" an empty file system in memory, for "host" the host's.
func newRoot(fsMode string, own owner) (root, error) {
	open := func(p string) (root, error) {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return root{}, &SetupError{Step: StepMount, Path: p, Err: err}
		}
		return root{fd, own}, nil
	}
	if fsMode == "host" {
		// What is mounted later has flags of its own.
		attr := &unix.MountAttr{Attr_set: flagsWritable}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, attr); err != nil {
			return root{}, &SetupError{Step: StepMount, Path: "/", Err: fmt.Errorf("set mount flags: %w", err)}
		}
		return open("/")
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
	return open(newRootAt)
}

// mountVolatile makes the directories that live in memory and end with the sandbox.
func (r root) mountVolatile(o orders) error {
	private := o.Spec.FS == "private"
	type volatile struct {
		at      string
		options []string
	}
	list := []volatile{
		{"/tmp", []string{"mode=1777", scratchSize, scratchFiles}},
		{"/run", o.owner().options("mode=0755", runtimeSize, runtimeFiles)},
		{"/var/tmp", []string{"mode=1777", smallSize, scratchFiles}},
	}
	if o.Spec.isEngine() { // all of /var is kept
		list = list[:2]
	}
	if !private {
		list = slices.DeleteFunc(list, func(v volatile) bool { return !isDir(v.at) })
		if isDir("/var/run") {
			list = append(list, volatile{"/var/run", []string{"mode=0755", runtimeSize, runtimeFiles}})
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
		if err := r.symlink(to, "/run/current-system"); err != nil {
			return err
		}
	}
	if o.Spec.isEngine() {
		return nil // /var is to come
	}
	return r.symlink("../run", "/var/run")
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
	if err := r.mountNew("/dev/pts", "devpts", flagsDevice, "ptmxmode=0666", "mode=0620", maxTerminals); err != nil {
		return err
	}
	if err := r.mountNew("/dev/shm", "tmpfs", flagsData, "mode=1777", scratchSize, scratchFiles); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := r.symlink(to, "/dev/"+name); err != nil {
			return err
		}
	}
	return r.freeze("/dev")
}

func (r root) mountGrafts(grafts []graft) error {
	for _, g := range grafts {
		var err error
		if g.link != "" {
			err = r.symlink(g.link, g.at)
		} else {
			err = r.mount(g.tree, g.at)
		}
		if err != nil {
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
