package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"

	"github.com/weir-dev/weir/sandbox/engine"
)

// What --profile engine has to itself.

// checkProfile refuses what the profile cannot keep its word with.
func (p *plan) checkProfile() error {
	if p.profile != "engine" {
		return nil
	}
	switch {
	case p.door != "netstack":
		return hint(fmt.Errorf("--door %s with --profile engine: root inside could change the rules and routes that this door is made of; the TAP's descriptor is the wall there", p.door), "--door netstack")
	case p.link == "veth":
		return hint(errors.New("--link veth with --profile engine: root inside could reach the other end of the pair; a TAP has none inside"), "--link tap")
	case p.fs != "private":
		return hint(fmt.Errorf("--fs %s with --profile engine: root inside could undo what covers the host's files there", p.fs), "--share DIR for each directory that is needed")
	}
	return nil
}

// engineSpec adds what the profile needs to the walls: subordinate ids, and a /var that is kept.
func (p *plan) engineSpec() error {
	spec := &p.spec
	spec.Profile, spec.Link = "engine", "tap"
	var err error
	if spec.SubUIDs, spec.SubGIDs, err = engine.SubIDs(); err != nil {
		return hint(err, "%s", subIDsFix())
	}
	if len(spec.SubUIDs) == 0 || len(spec.SubGIDs) == 0 {
		return hint(errors.New("find subordinate ids: there are none beside the user's own"), "%s", subIDsFix())
	}
	spec.Var = filepath.Join(filepath.Dir(spec.Home), "var")
	if p.dryRun {
		return nil
	}
	own := owner{-1, -1}
	if os.Geteuid() == 0 { // root inside is another user then
		own = owner{spec.SubUIDs[0].Start, spec.SubGIDs[0].Start}
	}
	if err := os.Lchown(spec.Home, own.uid, own.gid); err != nil {
		return fmt.Errorf("make home of app: %w", err)
	}
	if err := makeVar(spec.Var, own); err != nil {
		return fmt.Errorf("make /var of app: %w", err)
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

// subIDsFix gives the user ranges.
func subIDsFix() string {
	name := "USER"
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	return "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name + " (a range that nobody else has in /etc/subuid)"
}
