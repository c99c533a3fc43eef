//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountRows are attempts to see more of the host's files by rearranging mounts or going round their paths.
func mountRows() []Row {
	return []Row{
		{
			ID: "escape/mount", Vector: "mount a file system of its own", Right: "the call is refused",
			Source: "security.md 2.5", Privileged: true,
			Attack: func(*Attacker) error {
				if err := errors.Join(os.MkdirAll("here", 0o755), unix.Mount("none", "here", "tmpfs", 0, "")); err != nil {
					return err
				}
				return unix.Unmount("here", unix.MNT_DETACH)
			},
		},
		{
			ID: "escape/unmount-cover", Vector: "unmount what covers a hidden directory", Right: "the call is refused, and the mount is locked",
			Privileged: true, Prepare: prepareCover,
			Attack: func(a *Attacker) error {
				if err := unix.Unmount(filepath.Join(a.Args["tree"], "covered"), unix.MNT_DETACH); err != nil {
					return err
				}
				return a.read(filepath.Join(a.Args["tree"], "covered", "secret"))
			},
		},
		{
			ID: "escape/mount-api", Vector: "clone a tree without the mount that covers a directory in it (open_tree)", Right: "the call is refused, and the mount is locked",
			Privileged: true, Prepare: prepareCover,
			Attack: func(a *Attacker) error {
				tree, err := unix.OpenTree(unix.AT_FDCWD, a.Args["tree"], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
				if err != nil {
					return err
				}
				return a.readAt(tree, "covered/secret")
			},
		},
		{
			ID: "escape/chroot", Vector: "leave the root directory by chroot with a directory open", Right: "the call is refused",
			Privileged: true, Prepare: prepareSecret,
			Attack: func(a *Attacker) error {
				here, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY, 0)
				if err != nil {
					return err
				}
				if err := errors.Join(os.MkdirAll("jail", 0o755), unix.Chroot("jail"), unix.Fchdir(here)); err != nil {
					return err
				}
				return a.read(strings.Repeat("../", 32) + a.Args["path"])
			},
		},
	}
}

// prepareSecret makes a file that nothing shows to the inside; the attacker knows where it is.
func prepareSecret(s *Stage) error {
	path, err := s.secret("secret")
	s.Args["path"] = path
	return err
}

// prepareCover shares a directory in which the host has covered another one by a mount.
func prepareCover(s *Stage) error {
	tree := filepath.Join(s.Dir, "tree")
	covered := filepath.Join(tree, "covered")
	if err := errors.Join(os.MkdirAll(covered, 0o755), os.WriteFile(filepath.Join(covered, "secret"), []byte(s.Token), 0o644)); err != nil {
		return err
	}
	s.Args["tree"] = tree
	s.Flags = []string{"--share", tree}
	return s.mount("none", covered, "tmpfs", 0)
}

// mount mounts on the host, for this stage. Whatever the attacker did to the mount does not keep it there.
func (s *Stage) mount(source, target, kind string, flags uintptr) error {
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	s.Defer(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return nil
}

// readAt succeeds if the file below an open directory has the token.
func (a *Attacker) readAt(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return a.readFd(fd)
}

func (a *Attacker) readFd(fd int) error {
	f := os.NewFile(uintptr(fd), "opened")
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return a.contains(b)
}
