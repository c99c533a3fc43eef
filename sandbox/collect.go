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
	"strings"

	"golang.org/x/sys/unix"
)

// systemDirs are the children of the root directory that hold programs, libraries and configuration.
var systemDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "nix", "gnu", "snap"}

// deviceNodes are the devices inside; none of them reaches hardware or network.
var deviceNodes = []string{"null", "zero", "full", "random", "urandom", "tty"}

// engineNodes are those that container engines use besides, where the host has them: with either nothing can be done that
// its user's namespaces do not allow.
var engineNodes = []string{"net/tun", "fuse"}

// graft is a host path, already open, and its place inside; or a symbolic link to be made there.
type graft struct {
	tree tree
	at   string
	link string
}

// collect opens every host path that is to be seen inside, parents before children.
func collect(o orders) ([]graft, error) {
	spec := o.Spec
	var grafts []graft
	add := func(host, inside string, flags uint64) error {
		t, err := cloneTree(unix.AT_FDCWD, host, flags)
		if err == nil {
			grafts = append(grafts, graft{tree: t, at: path.Clean(inside)})
		}
		return err
	}
	if spec.FS == "private" {
		system, err := collectSystem(spec)
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, system...)
	}
	if spec.Home != "" {
		if err := add(spec.Home, spec.HomePath, flagsWritable); err != nil {
			return nil, err
		}
	} else if spec.FS == "private" {
		t, err := newTree("tmpfs", flagsWritable, o.owner().options("mode=0700", scratchSize, scratchFiles)...)
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, graft{tree: t, at: path.Clean(spec.HomePath)})
	}
	if spec.isEngine() {
		g, err := collectVar(o)
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, g)
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

// collectVar opens /var of profile engine, where engines keep images and containers. Programs in images may be setuid.
func collectVar(o orders) (graft, error) {
	var t tree
	var err error
	if o.Spec.Var != "" {
		t, err = cloneTree(unix.AT_FDCWD, o.Spec.Var, unix.MOUNT_ATTR_NODEV)
	} else {
		t, err = newTree("tmpfs", unix.MOUNT_ATTR_NODEV, o.owner().options("mode=0755")...)
	}
	return graft{tree: t, at: "/var"}, err
}

// collectSystem opens systemDirs, read-only; those that are links are made again.
func collectSystem(spec Spec) ([]graft, error) {
	var grafts []graft
	for _, name := range append(slices.Clone(systemDirs), "var/lib/ca-certificates") {
		var err error
		if name == "etc" && slices.ContainsFunc(neededEtc(spec), missing) {
			grafts, err = collectEtc(grafts)
		} else {
			grafts, err = collectEntry(grafts, "/"+name)
		}
		if err != nil {
			return nil, err
		}
	}
	return grafts, nil
}

// neededEtc are the files of /etc that get another content.
func neededEtc(spec Spec) []string {
	needed := []string{"/etc/resolv.conf", "/etc/hosts"}
	if spec.isEngine() {
		needed = append(needed, "/etc/subuid", "/etc/subgid")
	}
	return needed
}

// collectEtc takes /etc apart into its entries, because no file can be made in a read-only one.
func collectEtc(grafts []graft) ([]graft, error) {
	t, err := newTree("tmpfs", flagsWritable, "mode=0755", "size=4m")
	if err != nil {
		return nil, err
	}
	grafts = append(grafts, graft{tree: t, at: "/etc"})
	names, err := readDirNames("/etc")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &SetupError{Step: StepMount, Path: "/etc", Err: err}
	}
	for _, name := range names {
		if grafts, err = collectEntry(grafts, "/etc/"+name); err != nil {
			return nil, err
		}
	}
	return grafts, nil
}

// collectEntry adds what is at p, if anything.
func collectEntry(grafts []graft, p string) ([]graft, error) {
	if to, err := os.Readlink(p); err == nil {
		return append(grafts, graft{at: p, link: to}), nil
	}
	t, err := cloneTree(unix.AT_FDCWD, p, flagsReadOnly)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return grafts, nil
	case err != nil:
		return nil, err
	}
	return append(grafts, graft{tree: t, at: p}), nil
}

func missing(p string) bool {
	_, err := os.Lstat(p)
	return errors.Is(err, fs.ErrNotExist)
}

func collectDevices(spec Spec) ([]graft, error) {
	var grafts []graft
	nodes := slices.Clone(deviceNodes)
	for _, name := range engineNodes {
		if spec.isEngine() && !missing("/dev/"+name) {
			nodes = append(nodes, name)
		}
	}
	// Read-only is the node and not the device behind it: called by root, CMD owns the host's /dev/null, and could forbid it
	// to everybody else.
	flags := uint64(flagsDevice | unix.MOUNT_ATTR_RDONLY)
	if spec.isEngine() { // where the host's root is nobody
		flags = flagsDevice
	}
	for _, name := range nodes {
		t, err := cloneTree(unix.AT_FDCWD, "/dev/"+name, flags)
		if err != nil {
			return nil, err
		}
		grafts = append(grafts, graft{tree: t, at: "/dev/" + name})
	}
	return grafts, nil
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
