//go:build linux

package rules

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNewHost runs the test on a thread in a network namespace of its own, with a bridge br0 and two ports.
func inNewHost(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	for _, c := range []string{"link set lo up", "link add br0 type bridge", "addr add 10.88.0.1/24 dev br0", "link set br0 up",
		"link add p1 type veth peer name q1", "link set p1 master br0 up", "link add p2 type veth peer name q2", "link set p2 master br0 up"} {
		run(t, "ip", strings.Fields(c)...)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// snapshot is all that a door could change.
func snapshot(t *testing.T) string {
	t.Helper()
	var s strings.Builder
	for _, c := range []string{"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "sysctl -a -r net\\.(ipv4\\.conf|ipv4\\.ip_forward|ipv6\\.conf|bridge)"} {
		f := strings.Fields(c)
		s.WriteString(run(t, f[0], f[1:]...))
	}
	return s.String()
}

var guest1 = Guest{Port: "p1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Addrs: []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2")}, Resolvers: []netip.Addr{netip.MustParseAddr("10.88.0.1")}}

// TestHostOfMany: one transaction takes the rules of many containers.
func TestHostOfMany(t *testing.T) {
	inNewHost(t)
	h, err := OpenHost(HostConfig{Link: "br0"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range 40 {
		g := guest1
		g.Port, g.Index = fmt.Sprintf("p%d", i), 100+i
		g.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 88, 0, byte(2 + i)}), netip.MustParseAddr(fmt.Sprintf("fd88::%x", 2+i))}
		list, err := h.Add(g)
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		for _, s := range list {
			defer unix.Close(s.FD)
		}
	}
	if again, err := h.Restore(); again || err != nil {
		t.Errorf("rules that nobody has touched are put back: %v, %v", again, err)
	}
}

func TestHostLeavesNothing(t *testing.T) {
	inNewHost(t)
	before := snapshot(t)
	h, err := OpenHost(HostConfig{Link: "br0"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Add(guest1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		defer unix.Close(s.FD)
	}
	t.Log(h.Holds(), run(t, "nft", "list", "ruleset"), run(t, "ip", "rule"))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
