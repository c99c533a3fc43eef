//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/sandbox/engine"
)

// What --profile engine has to itself.

// engines are programs that make containers, which only the profile lets them do. A docker client makes none itself.
var engines = []string{"podman", "buildah", "buildkitd", "containerd", "dockerd", "nerdctl", "rootlesskit", "runc", "crun"}

// checkProfile refuses what the profile cannot keep its word with.
func (p *plan) checkProfile() error {
	if p.profile != "engine" {
		return nil
	}
	switch {
	case p.door == "tproxy" || p.door == "both":
		return hint(fmt.Errorf("--door %s with --profile engine: root inside could change the rules and routes that this door is made of; the TAP's descriptor is the wall there", p.door), "--door netstack")
	case p.link == "veth":
		return hint(errors.New("--link veth with --profile engine: root inside could reach the other end of the pair; a TAP has none inside"), "--link tap")
	case p.fs == "host":
		return hint(fmt.Errorf("--fs %s with --profile engine: root inside could undo what covers the host's files there", p.fs), "--share DIR for each directory that is needed")
	}
	return nil
}

// engineSpec adds what the profile needs to the walls: subordinate ids, and a /var that is kept.
func (p *plan) engineSpec() error {
	spec := &p.spec
	if err := findIDs(spec); err != nil {
		return err
	}
	p.link = spec.Link
	spec.Var = filepath.Join(filepath.Dir(spec.Home), "var")
	if p.dryRun {
		return nil
	}
	own := owner{-1, -1}
	if os.Geteuid() == 0 { // root inside is another user then
		own = owner{spec.SubUIDs[0].Start, spec.SubGIDs[0].Start}
	}
	if err := os.Lchown(spec.Home, own.uid, own.gid); err != nil {
		return unmappedHint(fmt.Errorf("make home of app: %w", err), own.uid)
	}
	if err := makeVar(spec.Var, own); err != nil {
		return unmappedHint(fmt.Errorf("make /var of app: %w", err), own.uid)
	}
	return nil
}

// unmappedHint is for ids of /etc/subuid that weir's own user namespace does not have, as root in a rootless container.
func unmappedHint(err error, uid int) error {
	if !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return hint(err, "run weir outside of this user namespace, which lacks uid %d of /etc/subuid (see /proc/self/uid_map), or change /etc/subuid and /etc/subgid to ids that it has", uid)
}

// findIDs makes spec one of the profile, with the user's subordinate ids.
func findIDs(spec *sandbox.Spec) (err error) {
	spec.Profile, spec.Link = "engine", "tap"
	if spec.SubUIDs, spec.SubGIDs, err = engine.SubIDs(); err != nil {
		return hint(err, "%s", subIDsFix())
	}
	if len(spec.SubUIDs) == 0 || len(spec.SubGIDs) == 0 {
		return hint(errors.New("find subordinate ids: there are none beside the user's own"), "%s", subIDsFix())
	}
	return nil
}

// owner is a user and a group; -1 changes nothing.
type owner struct{ uid, gid int }

// makeVar makes the directory and what programs expect in it, once: later it is the program's, and nothing there can be
// relied on to be what it was.
func makeVar(dir string, own owner) error {
	if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	made := []string{dir}
	for _, name := range []string{"cache", "lib", "log", "spool", "tmp"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		made = append(made, path)
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := os.Symlink("../run", filepath.Join(dir, "run")); err != nil {
		return err
	}
	for _, path := range made {
		if err := os.Lchown(path, own.uid, own.gid); err != nil {
			return err
		}
	}
	return nil
}

// mapIDsFix says what keeps the ids of a user namespace from being mapped.
func mapIDsFix(err error) string {
	if errors.Is(err, exec.ErrNotFound) {
		return "install newuidmap and newgidmap: sudo apt-get install uidmap, or sudo dnf install shadow-utils"
	}
	return "newuidmap and newgidmap must be setuid root (or have cap_setuid, cap_setgid) and the ranges in /etc/subuid and /etc/subgid must be the user's: see: weir doctor"
}

// fewestIDs is how many subordinate ids images count on: users and groups from 0 to 65535.
const fewestIDs = 65536

// subIDsFix gives the user ranges that nobody has.
func subIDsFix() string {
	name := "USER"
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	first := freeIDs("/etc/subuid", "/etc/subgid")
	return fmt.Sprintf("sudo usermod --add-subuids %d-%d --add-subgids %[1]d-%[2]d %s", first, first+fewestIDs-1, name)
}

// freeIDs returns the first id behind all that the files give to somebody.
func freeIDs(files ...string) int {
	first := 100000
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) != 3 {
				continue
			}
			start, err1 := strconv.Atoi(fields[1])
			count, err2 := strconv.Atoi(fields[2])
			if err1 == nil && err2 == nil {
				first = max(first, start+count)
			}
		}
	}
	return first
}

// probeSubIDs looks for what --profile engine maps.
func probeSubIDs() finding {
	uids, gids, err := engine.SubIDs()
	if err != nil || len(uids) == 0 || len(gids) == 0 {
		return finding{Status: "warn", Summary: "no subordinate uids and gids for this user; --profile engine needs them", Fix: subIDsFix()}
	}
	if n := min(total(uids), total(gids)); n < fewestIDs {
		return finding{Status: "warn", Summary: fmt.Sprintf("only %d subordinate ids: images with files of more users cannot be unpacked in --profile engine", n), Fix: subIDsFix()}
	}
	return finding{Status: "pass", Summary: fmt.Sprintf("%d subordinate uids and %d gids", total(uids), total(gids))}
}

func total(ranges []sandbox.IDRange) (n int) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// probeIDMappers looks for the programs that may map them.
func probeIDMappers() finding {
	for _, program := range []string{"newuidmap", "newgidmap", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return finding{Status: "warn", Summary: program + " is not installed; --profile engine needs it", Fix: "sudo apt-get install uidmap iproute2, or sudo dnf install shadow-utils iproute"}
		}
	}
	return finding{Status: "pass", Summary: "newuidmap and newgidmap are installed"}
}

// probeFuse looks for what fuse-overlayfs and its kin need inside.
func probeFuse() finding {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil && os.Geteuid() == 0 { // root inside is another user
		if fi, statErr := f.Stat(); statErr != nil || fi.Mode()&0o006 != 0o006 {
			f.Close()
			err = os.ErrPermission
		}
	}
	if err != nil {
		return finding{Status: "skip", Summary: "/dev/fuse cannot be opened (" + err.Error() + "); engines inside have the kernel's overlay"}
	}
	f.Close()
	return finding{Status: "pass", Summary: "/dev/fuse can be opened, and so inside --profile engine"}
}

// probeEngine runs a program as root inside.
func probeEngine() finding {
	err := tryEngine()
	if err == nil {
		return finding{Status: "pass", Summary: "a sandbox with --profile engine works: root inside, with ids, namespaces and mounts of its own"}
	}
	f := finding{Status: "warn", Summary: "no sandbox with --profile engine: " + err.Error()}
	var h hinted
	if errors.As(withHint(err), &h) {
		f.Fix = h.fix
	}
	return f
}

func tryEngine() error {
	home, _ := os.UserHomeDir()
	spec := emptySpec("tap", home)
	if err := findIDs(&spec); err != nil {
		return err
	}
	box, err := sandbox.Start(spec)
	if err != nil {
		return err
	}
	defer box.Close()
	if err := box.Release(); err != nil {
		return err
	}
	status, err := box.Wait()
	if err == nil && status != (sandbox.ExitStatus{}) {
		err = fmt.Errorf("true ended with %+v", status)
	}
	return err
}
