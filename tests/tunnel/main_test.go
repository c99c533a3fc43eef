//go:build linux

// Package tunnel runs the whole tunnel in a laboratory: a cloud, two laptops behind NATs of their own, and the private
// network of each, all namespaces of one machine (lab_test.go), with a network between them that is as bad as a test wants
// it to be (internal/impair).
//
// What takes long runs with WEIR_LONG=1 only: the matrix of network faults, with what each row adds to a minute or two.
package tunnel

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weir-dev/weir/internal/playground"
)

// binVariable names the directory of what was built once for this run: weir, and probe (tests/probe).
const binVariable = "WEIR_TUNNEL_BIN"

func TestMain(m *testing.M) {
	if !playground.Inside() {
		os.Exit(outside())
	}
	log.SetOutput(io.Discard) // servers complain of clients that end
	flag.Parse()
	flag.Set("test.parallel", "8") // most of them wait most of the time
	os.Exit(m.Run())
}

// outside builds the commands and runs this program again in namespaces of its own.
func outside() int {
	dir, err := os.MkdirTemp("", "weir-tunnel-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	for name, pkg := range map[string]string{"weir": "cmd/weir", "probe": "tests/probe"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/weir-dev/weir/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", pkg+":", err)
			return 1
		}
	}
	os.Setenv(binVariable, dir)
	status, err := playground.Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		fmt.Fprintln(os.Stderr, "these tests need user namespaces; `weir doctor` says how to allow them")
		return 1
	}
	return status
}

func bin(name string) string { return filepath.Join(os.Getenv(binVariable), name) }

// long skips what takes long.
func long(t *testing.T) {
	if os.Getenv("WEIR_LONG") == "" {
		t.Skip("takes long; WEIR_LONG=1 or `make tunnel-faults` runs it")
	}
}
