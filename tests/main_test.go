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
	"syscall"
	"testing"

	"github.com/weir-dev/weir/internal/playground"
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
	status, err := playground.Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		fmt.Fprintln(os.Stderr, "these tests need user namespaces; `weir doctor` says how to allow them")
		return 1
	}
	return status
}

// asWeir is what a script runs as "weir": the command under test, without the capabilities of the playground.
func asWeir() int {
	err := playground.Shed()
	if err == nil {
		path := filepath.Join(binDir(), "weir-under-test")
		err = syscall.Exec(path, append([]string{"weir"}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
