//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What a mount may not be used for. Flags are only ever added, so that those locked by
// the host's mount namespace stay.
const (
	flagsReadOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	flagsWritable = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	flagsData     = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	flagsDevice   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
)

// tree is a mount that hangs nowhere yet: the descriptor of its root.
type tree struct {
	fd  int
	dir bool
}

// openTree copies what is mounted at path below dirfd, with everything beneath it and with its flags.
func openTree(dirfd int, p string) (tree, error) {
	how := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH)
	fd, err := unix.OpenTree(dirfd, p, how)
	if err != nil {
		return tree{}, &SetupError{Step: StepMount, Path: p, Err: fmt.Errorf("open tree: %w", err)}
	}
	return tree{fd: fd}, nil
}

// cloneTree is openTree with flags added to all of it.
func cloneTree(dirfd int, p string, flags uint64) (tree, error) {
	t, err := openTree(dirfd, p)
	if err != nil {
		return tree{}, err
	}
	fd := t.fd
	attr := &unix.MountAttr{Attr_set: flags, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		unix.Close(fd)
		return tree{}, &SetupError{Step: StepMount, Path: p, Err: fmt.Errorf("set mount flags: %w", err)}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return tree{}, &SetupError{Step: StepMount, Path: p, Err: fmt.Errorf("stat: %w", err)}
	}
	return tree{fd, st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// newTree makes a new file system of the given type; options are "key=value".
func newTree(fstype string, flags int, options ...string) (tree, error) {
	fail := func(what string, err error) (tree, error) {
		return tree{}, &SetupError{Step: StepMount, Path: fstype, Err: fmt.Errorf("%s: %w", what, err)}
	}
	fsfd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fsfd)
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		if err := unix.FsconfigSetString(fsfd, k, v); err != nil {
			return fail("set "+o, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fail("create", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, flags)
	if err != nil {
		return fail("mount", err)
	}
	return tree{fd, true}, nil
}

// attach hangs t over the directory entry at, an O_PATH descriptor, and closes both.
func (t tree) attach(at int, name string) error {
	defer unix.Close(t.fd)
	defer unix.Close(at)
	if err := unix.MoveMount(t.fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return &SetupError{Step: StepMount, Path: name, Err: err}
	}
	return nil
}

// root is the directory that is to become CMD's root. Names are resolved below it and never outside, and by makeEntry
// without following a symbolic link: the home was CMD's to write in earlier runs.
// What is made in a directory of the owner's is the owner's.
type root struct {
	fd  int
	own owner
}

// mount hangs t at name, making the directory entry and those above it.
func (r root) mount(t tree, name string) error {
	at, err := r.makeEntry(name, t.dir)
	if err != nil {
		unix.Close(t.fd)
		return err
	}
	return t.attach(at, name)
}

// mountNew is mount of a new file system.
func (r root) mountNew(name, fstype string, flags int, options ...string) error {
	t, err := newTree(fstype, flags, options...)
	if err != nil {
		var e *SetupError
		if errors.As(err, &e) {
			e.Path = name
		}
		return err
	}
	return r.mount(t, name)
}

// cover hangs t over what name leads to by way of symbolic links; fs.ErrNotExist when it leads nowhere.
func (r root) cover(t tree, name string) error {
	at, err := r.resolve(name, unix.O_PATH)
	if err != nil {
		unix.Close(t.fd)
		return &SetupError{Step: StepMount, Path: name, Err: err}
	}
	return t.attach(at, name)
}

// resolve opens name, with symbolic links that cannot lead out of the root.
func (r root) resolve(name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(r.fd, name, how)
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// makeEntry returns an O_PATH descriptor of the directory or file name, made if missing.
func (r root) makeEntry(name string, dir bool) (int, error) {
	parts := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	at, err := unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 3)
	for i, part := range parts {
		if err != nil || part == "" {
			break
		}
		var next int
		if i < len(parts)-1 || dir {
			next, err = openOrMake(at, part, unix.O_DIRECTORY, func() error { return r.give(at, part, unix.Mkdirat(at, part, 0o755)) })
		} else {
			next, err = openOrMake(at, part, 0, func() error { return r.give(at, part, makeFile(at, part)) })
		}
		unix.Close(at)
		at = next
	}
	if err != nil {
		return -1, &SetupError{Step: StepMount, Path: name, Err: fmt.Errorf("make mount point: %w", err)}
	}
	return at, nil
}

func openOrMake(at int, part string, flags int, create func() error) (int, error) {
	flags |= unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, part, flags, 0)
	if err == unix.ENOENT {
		if err := create(); err != nil && err != unix.EEXIST {
			return -1, err
		}
		fd, err = unix.Openat(at, part, flags, 0)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is a symbolic link: %w", part, unix.ELOOP)
	}
	return fd, nil
}

func makeFile(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// give makes the entry part of the directory at, which was just made unless err says otherwise, the owner's.
func (r root) give(at int, part string, err error) error {
	var st unix.Stat_t
	if err == nil && r.own.uid != os.Geteuid() {
		if err = unix.Fstat(at, &st); err == nil && int(st.Uid) == r.own.uid {
			err = unix.Fchownat(at, part, r.own.uid, r.own.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	return err
}

// symlink makes name point to target.
func (r root) symlink(target, name string) error {
	dir, err := r.makeEntry(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Symlinkat(target, dir, path.Base(name)); err != nil {
		return &SetupError{Step: StepMount, Path: name, Err: fmt.Errorf("make symlink: %w", err)}
	}
	return nil
}

// replaceFile writes name anew below a writable directory, as one step for whoever reads it.
func (r root) replaceFile(name string, content []byte, mode uint32) error {
	dir, err := r.makeEntry(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	tmp := fmt.Sprintf(".weir-%x", rand.Uint64()) // of our own: another sandbox of this app may start at this moment
	fd, err := unix.Openat(dir, tmp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err != nil {
		return &SetupError{Step: StepWrite, Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	err = r.give(dir, tmp, err)
	if err == nil {
		err = unix.Renameat(dir, tmp, dir, path.Base(name))
	}
	if err != nil {
		unix.Unlinkat(dir, tmp, 0)
		return &SetupError{Step: StepWrite, Path: name, Err: err}
	}
	return nil
}

// stageDir is a file system of its own where covers are written before they are mounted over files. Its files are not
// unlinked, as nothing can be mounted over a cover whose file is gone; the whole of it goes away before CMD starts.
const stageDir = "/run/.weir"

func (r root) mountStage() error {
	if err := r.mountNew(stageDir, "tmpfs", flagsWritable, "mode=0700", "size=16m"); err != nil {
		return err
	}
	return r.mountBlanks()
}

// stageFile returns a read-only mount of a new file.
func (r root) stageFile(content []byte) (tree, error) {
	name := fmt.Sprintf("%s/%x", stageDir, rand.Uint64())
	if err := r.replaceFile(name, content, 0o644); err != nil {
		return tree{}, err
	}
	return cloneTree(r.fd, name[1:], flagsReadOnly|unix.MOUNT_ATTR_NOEXEC)
}

func (r root) dropStage() error {
	err := unix.Fchdir(r.fd)
	if err == nil {
		err = unix.Unmount(stageDir[1:], unix.MNT_DETACH)
	}
	if err == nil {
		err = unix.Unlinkat(r.fd, stageDir[1:], unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &SetupError{Step: StepMount, Path: stageDir, Err: err}
	}
	return nil
}
