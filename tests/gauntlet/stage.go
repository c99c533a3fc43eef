//go:build linux

package gauntlet

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Stage is what lies around one run of one attack.
type Stage struct {
	World *World
	// Token is a word that nobody else says: where it is heard, this attack has been. It is a valid DNS label.
	Token string
	// Dir is a directory of the host, for this run, that nothing shows to the inside.
	Dir string
	// Args are what the attacker is told.
	Args map[string]string
	// Env is added to the environment of the sandbox's own process (weir, bwrap ...), not to the attacker's.
	Env []string
	// Files are inherited by that process from descriptor 3 on.
	Files []*os.File
	// Stdin is its standard input; nil is /dev/null.
	Stdin *os.File
	// Terminal becomes the controlling terminal of that process, and its standard input. nil: it has none.
	Terminal *os.File
	// Weir is the weir that runs the attack, "" for other tools; Door is how packets leave its sandbox.
	Weir, Door string
	// Neighbour is a shell script that runs in Dir and in the process group of the sandbox's own process, which starts when
	// the script has made the file "ready".
	Neighbour string
	// Flags are further flags of weir run; other tools do not get them.
	Flags []string

	// Inside says whether the attack runs in a sandbox; false for the control without any.
	Inside bool
	// Pid is the sandbox's own process while it runs.
	Pid int
	// Status, Stdout and Stderr are what the run left behind. Events is weir's log, "" for other tools.
	Status         int
	Stdout, Stderr string
	Events         string

	wire     atomic.Int64  // frames that watchWire was looking for
	ended    chan struct{} // closed when the stage's victim has ended
	keyboard *os.File      // the other end of a terminal that is not the sandbox's
	peak     atomic.Int64  // the most of something that During has seen
	deferred []func()
}

func newStage(w *World, dir string, tool Tool) (*Stage, error) {
	b := make([]byte, 8)
	rand.Read(b)
	s := &Stage{World: w, Token: "t" + hex.EncodeToString(b), Args: map[string]string{}, Inside: tool.Name != "none", Weir: tool.path, Door: tool.door}
	var err error
	if s.Dir, err = os.MkdirTemp(dir, "stage-"); err != nil {
		return nil, fmt.Errorf("set stage: %w", err)
	}
	s.Defer(func() { os.RemoveAll(s.Dir) })
	return s, nil
}

// Defer has f called when the run is over, the last one first.
func (s *Stage) Defer(f func()) { s.deferred = append(s.deferred, f) }

func (s *Stage) close() {
	for i := len(s.deferred) - 1; i >= 0; i-- {
		s.deferred[i]()
	}
}

// fill puts the arguments, and the token, in the place of {NAME} and {token}.
func (s *Stage) fill(texts []string) []string {
	pairs := []string{"{token}", s.Token}
	for name, value := range s.Args {
		pairs = append(pairs, "{"+name+"}", value)
	}
	r := strings.NewReplacer(pairs...)
	filled := make([]string, len(texts))
	for i, t := range texts {
		filled[i] = r.Replace(t)
	}
	return filled
}

// Stranger is a Prepare: it opens servers on an address of this run's own, Args["stranger"].
func Stranger(s *Stage) error {
	a, servers, err := s.World.stranger()
	s.Args["stranger"] = a.String()
	for _, c := range servers {
		s.Defer(func() { c.Close() })
	}
	return err
}

// Reached is the Harm of a row with a stranger: somebody was told the token, or the stranger was so much as dialled.
func Reached(s *Stage) bool {
	return Heard(s) || s.World.Dialled(netip.MustParseAddr(s.Args["stranger"])) > 0
}

// Heard is the usual Harm: some server of the world, or of the host, was told the token.
func Heard(s *Stage) bool { return s.World.Heard(s.Token) }

// secret writes a file that nobody inside may read or change, and returns its path.
func (s *Stage) secret(name string) (string, error) {
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, []byte(s.Token+"\n"), 0o666)
}

// HasEvent reports whether weir's log has an event "KIND FIELD=VALUE ...". Fields are those of details, or app; a VALUE of
// * is any but empty.
func (s *Stage) HasEvent(pattern string) bool {
	words := strings.Fields(pattern)
	for line := range strings.Lines(s.Events) {
		if lineMatches(line, words) {
			return true
		}
	}
	return false
}

func lineMatches(line string, words []string) bool {
	var e struct {
		Event, App string
		Details    map[string]any
	}
	if json.Unmarshal([]byte(line), &e) != nil || e.Event != words[0] {
		return false
	}
	for _, w := range words[1:] {
		name, want, _ := strings.Cut(w, "=")
		got := ""
		if v := e.Details[name]; v != nil {
			got = fmt.Sprint(v)
		}
		if name == "app" {
			got = e.App
		}
		if got != want && (want != "*" || got == "") {
			return false
		}
	}
	return true
}
