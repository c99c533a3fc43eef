//go:build linux

package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary plays three parts: the tests, the init of each sandbox, and (with launcherEnv set) a launcher in a
// process of its own that can be killed, run as another user, or be put on a terminal.
func TestMain(m *testing.M) {
	if IsInit() {
		InitMain()
	}
	if spec := os.Getenv(launcherEnv); spec != "" {
		os.Exit(launch(spec))
	}
	goleak.VerifyTestMain(m)
}

const launcherEnv = "WEIR_TEST_LAUNCH"

// launch is what cmd/weir does, without a data path.
func launch(encoded string) int {
	var spec Spec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	spec.Stdin, spec.Stdout, spec.Stderr = os.Stdin, os.Stdout, os.Stderr
	status, err := run(spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	if status.Signal != 0 {
		return 128 + int(status.Signal)
	}
	return status.Code
}

// run starts, releases and waits.
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
		Env:     []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/someone", "LC_ALL=C"},
		Addr4:   netip.MustParseAddr("10.77.0.2"), Gateway4: netip.MustParseAddr("10.77.0.1"),
		Addr6: netip.MustParseAddr("fd77::2"), Gateway6: netip.MustParseAddr("fd77::1"),
		GuestMAC:    net.HardwareAddr{2, 0x77, 0x65, 0x69, 0x72, 2},
		GatewayMAC:  net.HardwareAddr{2, 0x77, 0x65, 0x69, 0x72, 1},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		HomePath:    "/home/someone",
	}
}
