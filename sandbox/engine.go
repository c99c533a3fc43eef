//go:build linux

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// The launcher's side of profile "engine".

// IDRange is a range of subordinate user or group ids of the caller (subuid(5)).
type IDRange struct{ Start, Count int }

// isEngine says whether the program is root inside, over a user namespace of its own.
func (s Spec) isEngine() bool { return s.Profile == "engine" }

// checkEngine refuses what the profile has no place for.
func (s Spec) checkEngine(bad func(path, format string, args ...any) error) error {
	switch {
	case s.Profile != "" && s.Profile != "tool" && s.Profile != "engine":
		return bad("", "profile %q is not tool or engine", s.Profile)
	case !s.isEngine():
		return nil
	case s.Link == "veth":
		return bad("", "profile engine needs a tap link: root inside could reach the other end of a veth pair")
	case s.FS != "private":
		return bad("", "profile engine needs fs private: the mounts that root inside must not undo are those of a root of its own")
	case len(s.SubUIDs) == 0 || len(s.SubGIDs) == 0:
		return bad("", "profile engine needs subordinate uids and gids")
	}
	for _, r := range append(append([]IDRange{}, s.SubUIDs...), s.SubGIDs...) {
		if r.Start <= 0 || r.Count <= 0 {
			return bad("", "no range of subordinate ids: %d:%d", r.Start, r.Count)
		}
	}
	return nil
}

// mapIDs gives init's user namespace its ids, by the two programs that may do so for an ordinary user: the caller's own
// id becomes 0, subordinate ids stay what they are. Init waits for this.
func (s *Sandbox) mapIDs(spec Spec) error {
	for _, m := range []struct {
		program string
		own     int
		ranges  []IDRange
	}{{"newuidmap", os.Geteuid(), spec.SubUIDs}, {"newgidmap", os.Getegid(), spec.SubGIDs}} {
		args := []string{strconv.Itoa(s.proc.Pid), "0", strconv.Itoa(m.own), "1"}
		for _, r := range m.ranges {
			args = append(args, strconv.Itoa(r.Start), strconv.Itoa(r.Start), strconv.Itoa(r.Count))
		}
		if out, err := exec.Command(m.program, args...).CombinedOutput(); err != nil {
			if text := strings.TrimSpace(string(out)); text != "" {
				err = fmt.Errorf("%w: %s", err, strings.ReplaceAll(text, "\n", "; "))
			}
			return &SetupError{Step: StepMapIDs, Path: m.program, Err: err}
		}
	}
	if err := s.ctl.send(message{Op: opMapped}); err != nil {
		return &SetupError{Step: StepInit, Err: err}
	}
	return nil
}
