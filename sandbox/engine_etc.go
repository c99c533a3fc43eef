//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// containersConf tells podman, buildah and their kin what the profile has not: control groups of its own.
// Without it the engines ask for as much as the host's root might have.
func containersConf() ([]byte, error) {
	var files, processes unix.Rlimit
	if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NOFILE, &files), unix.Getrlimit(unix.RLIMIT_NPROC, &processes)); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `# Written by weir: no control groups can be made in here, and no limit raised.
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=%d:%d", "nproc=%d:%d"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`, min(usualOpenFiles, files.Max), files.Max, processes.Max, processes.Max), nil
}

// finishEtc makes of /etc, which rootlesskit has made writable, what CMD is to see, and takes away what was there for
// rootlesskit alone: its API.
func finishEtc(o orders) error {
	fail := func(name string, err error) error { return &SetupError{Step: StepWrite, Path: name, Err: err} }
	if err := os.Chmod("/etc", 0o755); err != nil { // any user could write in rootlesskit's
		return fail("/etc", err)
	}
	for _, dir := range []string{"/etc/containers", "/etc/containers/containers.conf.d", "/etc/cni", "/etc/cni/net.d"} {
		if err := thaw(dir); err != nil {
			return fail(dir, err)
		}
	}
	conf, err := containersConf()
	if err != nil {
		return fail("containers.conf", err)
	}
	for name, content := range map[string][]byte{
		"/etc/resolv.conf": resolvConf(o.Spec), // both are mounts by rootlesskit
		"/etc/hosts":       hostsFile(o.Spec),
		"/etc/subuid":      o.innerSubIDs(o.Spec.SubUIDs),
		"/etc/subgid":      o.innerSubIDs(o.Spec.SubGIDs),
		"/etc/containers/containers.conf.d/50-weir.conf": conf,
	} {
		if fi, err := os.Lstat(name); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			os.Remove(name) // it leads to the file of the outer namespace
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return fail(name, err)
		}
	}
	if err := os.Remove(EngineStateDir + "/api.sock"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &SetupError{Step: StepEngine, Path: "api", Err: err}
	}
	return nil
}

// innerSubIDs is /etc/subuid or /etc/subgid as CMD sees it: root has every id but its own.
func (o orders) innerSubIDs(ranges []IDRange) []byte {
	n := 0
	for _, r := range ranges {
		n += r.Count
	}
	if o.AsRoot {
		n-- // the first is root
	}
	return fmt.Appendf(nil, "root:1:%d\n", n)
}

// thaw replaces a link to a directory that cannot be written by a directory of links to what is in there. A directory
// that is not there is made.
func thaw(dir string) error {
	target, err := filepath.EvalSymlinks(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		os.Remove(dir) // a link that leads nowhere
		return os.Mkdir(dir, 0o755)
	case err != nil:
		return err
	case target == dir:
		return nil
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(target, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
