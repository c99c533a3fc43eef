//go:build linux

// Package tests runs the real thing: the weir command, in sandboxes, against servers in namespaces that the tests make
// themselves (internal/playground). What a user would do is a script in testdata/script (rogpeppe/go-internal/testscript);
// what needs more than a script is a Go test beside this file.
//
// The tests need user namespaces and a link (TUN, or veth), and no privileges. Run as root they hold as well.
package tests

import (
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/sandbox/engine"
)

// binDir holds what was built once for this run: weir, the command under test, and probe, a program that does what it
// is told (tests/probe).
func binDir() string { return os.Getenv("WEIR_TEST_BIN") }

// world is the internet that the scripts see. Scripts run side by side, so nobody changes it after TestMain.
var world *playground.World

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "weir":
		os.Exit(asWeir())
	case filepath.Base(os.Args[0]) == "spoof":
		os.Exit(spoofMain())
	case !playground.Inside():
		os.Exit(outside())
	}
	log.SetOutput(io.Discard) // servers complain of clients that weir turned away
	var err error
	if world, err = playground.Open(); err == nil {
		err = populate(world)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	world.Close()
	os.Exit(code)
}

// outside builds the command and enters the playground with it.
func outside() int {
	dir, err := os.MkdirTemp("", "weir-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	for name, pkg := range map[string]string{"weir-under-test": "cmd/weir", "probe": "tests/probe"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/weir-dev/weir/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", pkg+":", err)
			return 1
		}
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "weir"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("WEIR_TEST_BIN", dir)
	status, err := enterPlayground()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		fmt.Fprintln(os.Stderr, "these tests need user namespaces; `weir doctor` says how to allow them")
		return 1
	}
	return status
}

// enterPlayground takes the user's subordinate ids along, which profile engine needs, where the host has given any.
func enterPlayground() (int, error) {
	pairs := func(ranges []sandbox.IDRange) (out [][2]int) {
		for _, r := range ranges {
			out = append(out, [2]int{r.Start, r.Count})
		}
		return out
	}
	uids, gids, err := engine.SubIDs()
	if _, lookErr := exec.LookPath("newuidmap"); err != nil || lookErr != nil {
		return playground.Enter()
	}
	os.Setenv("WEIR_TEST_IDS", "1")
	return playground.EnterWithIDs(pairs(uids), pairs(gids))
}

// asWeir is what a script runs as "weir": the command under test, without the capabilities of the playground.
func asWeir() int {
	var keep []uintptr
	if slices.Contains(os.Args, "engine") { // newuidmap has no other way to them in the playground
		keep = []uintptr{unix.CAP_SETUID, unix.CAP_SETGID}
	}
	err := playground.Shed(keep...)
	if err == nil {
		path := filepath.Join(binDir(), "weir-under-test")
		err = syscall.Exec(path, append([]string{"weir"}, throughDoor(os.Args[1:])...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// throughDoor has weir run use the door that the environment names, where the arguments name none.
func throughDoor(args []string) []string {
	name := os.Getenv("WEIR_TEST_DOOR")
	if name == "" || len(args) == 0 || args[0] != "run" || strings.Contains(strings.Join(args, " "), "--door") {
		return args
	}
	return append([]string{"run", "--door", name}, args[1:]...)
}
