//go:build linux

// Package testpodman runs podman for tests: with a storage, a network configuration and a /run/netns of its own, so that
// no container, image or network of the machine is seen or touched.
//
// The test is root and lives in a network and a mount namespace of its own ([Enter]); the bridge that podman makes is there
// and gone with it. The image has one static program that weir's tests bring along; nothing is fetched.
package testpodman

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const marker = "WEIR_TESTPODMAN"

// Inside reports whether the process is in namespaces that Enter made.
func Inside() bool { return os.Getenv(marker) != "" }

// Enter runs this program again, as root and with the same arguments and streams, in a network and a mount namespace of its
// own, and returns its exit status.
func Enter() (status int, err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("enter namespaces: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// Engine is a podman with a storage of its own.
type Engine struct {
	flags []string
	// Cgroups reports whether containers get a control group of their own.
	Cgroups bool
}

// Open prepares podman, or skips the test and says what the machine lacks.
func Open(t *testing.T) *Engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("podman on a bridge needs root")
	}
	for _, program := range []string{"podman", "crun", "conmon"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	if !Inside() {
		t.Fatal("not in namespaces of the test's own")
	}
	if err := setUp(); err != nil {
		t.Skipf("this machine does not let root prepare podman's place: %v", err)
	}
	dir := t.TempDir()
	return &Engine{flags: []string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--network-config-dir", dir + "/net",
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}}
}

// setUp changes this mount namespace and no other: an empty /run/netns, and control groups of version 2 only, as crun
// refuses a mixture.
func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("netns", "/run/netns", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run/netns: %w", err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Podman runs a command of podman and returns what it says on stdout.
func (e *Engine) Podman(args ...string) (string, error) {
	cmd := exec.Command("podman", append(append([]string{}, e.flags...), args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// Image makes an image with nothing but the static program, as /program.
func (e *Engine) Image(t *testing.T, name, program string) {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "program", Mode: 0o755, Size: int64(len(content))}, {Name: "tmp", Mode: 0o1777, Typeflag: tar.TypeDir}} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write(content)
		}
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Podman("import", "-q", path, name); err != nil {
		t.Fatalf("make image: %v", err)
	}
}

// Network makes a network and returns the name of its bridge; both end with the test. flags are those of podman network
// create.
func (e *Engine) Network(t *testing.T, name string, flags ...string) (bridge string) {
	t.Helper()
	if _, err := e.Podman(append(append([]string{"network", "create"}, flags...), name)...); err != nil {
		t.Fatalf("make network: %v", err)
	}
	t.Cleanup(func() { e.Podman("network", "rm", "-f", name) })
	bridge, err := e.Podman("network", "inspect", "-f", "{{.NetworkInterface}}", name)
	if err != nil || bridge == "" {
		t.Fatalf("find bridge: %q, %v", bridge, err)
	}
	return bridge
}

// Run starts a container in the background and returns its id and the process id of its first process. args are the flags
// of podman run, the image and the command. The container ends with the test.
func (e *Engine) Run(t *testing.T, args ...string) (id string, pid int) {
	t.Helper()
	// The limits that podman would set may be above what this machine's root may set.
	base := []string{"run", "-d", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}
	id, err := e.Podman(append(base, args...)...)
	e.Cgroups = err == nil
	if err != nil {
		first := err
		e.remove(args)
		if id, err = e.Podman(append(append(base, "--cgroups=disabled"), args...)...); err != nil {
			t.Skipf("podman cannot run a container here: %v; without a control group: %v", first, err)
		}
	}
	t.Cleanup(func() { e.Podman("rm", "-f", "-t", "0", id) })
	text, err := e.Podman("inspect", "-f", "{{.State.Pid}}", id)
	if pid, _ = strconv.Atoi(text); err != nil || pid == 0 {
		t.Fatalf("find process of container: %q, %v", text, err)
	}
	return id, pid
}

// remove takes away what a failed run left of a named container.
func (e *Engine) remove(args []string) {
	for i, a := range args {
		if a == "--name" && i+1 < len(args) {
			e.Podman("rm", "-f", "-t", "0", args[i+1])
		}
	}
}
