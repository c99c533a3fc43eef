//go:build linux

package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary plays four parts: the tests; the init of each sandbox; with launchEnv set a launcher in a process of
// its own that can be killed, run as another user, or be put on a terminal; and with probeEnv set a program inside.
func TestMain(m *testing.M) {
	if IsInit() {
		InitMain()
	}
	if spec := os.Getenv(launchEnv); spec != "" {
		os.Exit(launch(spec))
	}
	if what := os.Getenv(probeEnv); what != "" {
		os.Exit(probe(strings.Fields(what)))
	}
	goleak.VerifyTestMain(m)
}

const (
	launchEnv = "WEIR_TEST_LAUNCH"
	probeEnv  = "WEIR_TEST_PROBE"
)

// launch is what cmd/weir does, without a data path.
func launch(encoded string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	var spec Spec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return fail(err)
	}
	spec.Stdin, spec.Stdout, spec.Stderr = os.Stdin, os.Stdout, os.Stderr
	s, err := Start(spec)
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	go func() {
		for sig := range sigs {
			s.Signal(sig)
		}
	}()
	if err := s.Release(); err != nil {
		return fail(err)
	}
	status, err := s.Wait()
	if err != nil {
		return fail(err)
	}
	if group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == nil {
		fmt.Fprintln(os.Stderr, "foreground:", group == unix.Getpgrp())
	}
	if status.Signal != 0 {
		return 128 + int(status.Signal)
	}
	return status.Code
}

// run starts, releases and waits, in this process.
func run(spec Spec) (ExitStatus, error) {
	s, err := Start(spec)
	if err != nil {
		return ExitStatus{}, err
	}
	defer s.Close()
	if err := s.Release(); err != nil {
		return ExitStatus{}, err
	}
	return s.Wait()
}

// testSpec runs a shell script with nothing but the defaults of these tests.
func testSpec(script string) Spec {
	return Spec{
		Command: []string{"sh", "-c", script},
		Env:     []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/someone", "LC_ALL=C"},
		Addr4:   netip.MustParseAddr("10.77.0.2"), Gateway4: netip.MustParseAddr("10.77.0.1"),
		Addr6: netip.MustParseAddr("fd77::2"), Gateway6: netip.MustParseAddr("fd77::1"),
		GuestMAC:    net.HardwareAddr{2, 0x77, 0x65, 0x69, 0x72, 2},
		GatewayMAC:  net.HardwareAddr{2, 0x77, 0x65, 0x69, 0x72, 1},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		HomePath:    "/home/someone",
	}
}

// probeSpec runs this binary as a program inside.
func probeSpec(t testing.TB, what string) Spec {
	spec := testSpec("")
	self := selfCopy(t)
	spec.Command = []string{self}
	spec.Env = append(spec.Env, probeEnv+"="+what, "GORACE=atexit_sleep_ms=0")
	spec.Shares = []Share{{Host: filepath.Dir(self), ReadOnly: true}}
	return spec
}

// selfCopy is this binary where every user may execute it.
func selfCopy(t testing.TB) string {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(openDir(t), "self")
	if err := os.WriteFile(file, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// openDir is a temporary directory that every user may enter and write.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// caller is a user who runs the launcher.
type caller struct {
	name string
	cred *syscall.Credential // nil: the one who runs the tests
}

// callers are the current user and, when that is root, an ordinary one without any capability.
func callers() []caller {
	if os.Geteuid() != 0 {
		return []caller{{"user", nil}}
	}
	return []caller{{"root", nil}, {"ordinary", &syscall.Credential{Uid: ordinary, Gid: ordinary}}}
}

const ordinary = 65534 // nobody: exists everywhere and owns nothing

// launcher is a command that runs spec as the caller. The ordinary one gets a veth link where /dev/net/tun is not his.
func (c caller) launcher(t testing.TB, self string, spec Spec) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{launchEnv + "=" + string(b), "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	return cmd
}

// requireTun skips where there is no TUN device for us.
func requireTun(t testing.TB) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no /dev/net/tun: ", err)
	}
	unix.Close(fd)
}
