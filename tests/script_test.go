//go:build linux

package tests

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weir-dev/weir/internal/playground"
)

func tlsServer(c net.Conn, w *playground.World) net.Conn { return tls.Server(c, w.TLSConfig()) }

// TestScripts runs testdata/script through every door (doors_test.go). Besides testscript's own commands a script has
//
//	events FILE KIND [FIELD=VALUE ...]   FILE has such an event; VALUE * is any but empty or 0; ! for: has none
//	heard TEXT                           tools.example:21 or :25 was told TEXT
//	capture FILE                         write a small packet capture
//
// and the variables BIN (weir, probe), CA (the world's authority) and PROBE, the flags that show both to CMD.
func TestScripts(t *testing.T) {
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/script",
				RequireExplicitExec: true,
				Setup:               func(env *testscript.Env) error { return setupScript(env, door) },
				Cmds:                map[string]func(*testscript.TestScript, bool, []string){"events": eventsCommand, "heard": heardCommand, "capture": captureCommand},
				Condition:           func(name string) (bool, error) { return condition(name, door) },
			})
		})
	}
}

// condition is what a script may ask: door:NAME, whether it runs through that door; and of the machine: root; tun and pty,
// the devices; engine, what the profile needs; ping, whether the host lets weir ping.
func condition(name, door string) (bool, error) {
	if asked, ok := strings.CutPrefix(name, "door:"); ok {
		return asked == door, nil
	}
	device := map[string]string{"tun": "/dev/net/tun", "pty": "/dev/ptmx"}[name]
	switch {
	case device != "":
		f, err := os.OpenFile(device, os.O_RDWR|syscall.O_NOCTTY, 0)
		if err == nil {
			f.Close()
		}
		return err == nil, nil
	case name == "root":
		return os.Geteuid() == 0, nil
	case name == "engine":
		return engineLack() == "", nil
	case name == "ping":
		return pingAllowed, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setupScript has every "weir run" of the script that does not name a door go through this one.
func setupScript(env *testscript.Env, door string) error {
	home := filepath.Join(env.WorkDir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("WEIR_TEST_BIN", binDir())
	env.Setenv("WEIR_TEST_DOOR", door)
	env.Setenv("WEIR_PLAYGROUND", "1")
	env.Setenv("PATH", binDir()+":"+os.Getenv("PATH"))
	env.Setenv("BIN", binDir())
	env.Setenv("CA", world.CAFile())
	env.Setenv("SHOW", "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro")
	env.Setenv("TRUST", "--share="+world.CAFile()+":/run/ca.pem:ro")
	env.Setenv("CERT", "--env=SSL_CERT_FILE=/run/ca.pem")
	return nil
}

// eventsCommand asserts on an event log.
func eventsCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: events FILE KIND [FIELD=VALUE ...]")
	}
	text := ts.ReadFile(args[0])
	switch has := hasEvent(ts, text, args[1], args[2:]...); {
	case has && neg:
		ts.Fatalf("there is an event %s in:\n%s", strings.Join(args[1:], " "), text)
	case !has && !neg:
		ts.Fatalf("no event %s in:\n%s", strings.Join(args[1:], " "), text)
	}
}

// failer is a test or a script.
type failer interface {
	Fatalf(format string, args ...any)
}

// hasEvent reports whether one line of the log is of this kind and has these fields, each NAME=VALUE.
func hasEvent(f failer, text, kind string, fields ...string) bool {
	for line := range strings.Lines(text) {
		if eventMatches(f, []byte(line), kind, fields) {
			return true
		}
	}
	return false
}

func eventMatches(ts failer, line []byte, kind string, fields []string) bool {
	var e struct {
		Event   string
		App     string
		Details map[string]any
	}
	if err := json.Unmarshal(line, &e); err != nil {
		ts.Fatalf("not a line of JSON: %s: %v", line, err)
	}
	if e.Event != kind {
		return false
	}
	for _, f := range fields {
		name, want, _ := strings.Cut(f, "=")
		got := fmt.Sprint(e.Details[name])
		if e.Details[name] == nil {
			got = ""
		}
		if name == "app" {
			got = e.App
		}
		if want == "*" && got != "" && got != "0" || got == want {
			continue
		}
		return false
	}
	return true
}

// stateOf keeps a test's weir away from the user's own state.
func stateOf(t *testing.T) []string {
	dir := t.TempDir()
	return append(os.Environ(), "XDG_DATA_HOME="+dir+"/data", "XDG_STATE_HOME="+dir+"/state", "XDG_CONFIG_HOME="+dir+"/config")
}
