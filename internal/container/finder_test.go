//go:build linux

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestListNamesTheBoxBehindEachPort(t *testing.T) {
	newBridge(t, "br0")
	a, b := newBox(t, ""), newBox(t, "")
	a.plug(t, "br0", "porta", "10.9.0.2/24", "fd09::2/64")
	b.plug(t, "br0", "portb", "10.9.0.3/24")
	f := open(t, t.TempDir())
	got := list(t, f, "br0")
	for _, c := range []struct {
		box  *aBox
		port string
		want []string
	}{{a, "porta", []string{"10.9.0.2", "fd09::2"}}, {b, "portb", []string{"10.9.0.3"}}} {
		who := got[c.port]
		if who.Err != nil || who.PID != c.box.pid || who.Runtime != RuntimeNone || who.Interface != "eth0" || len(who.MAC) != 6 || who.Cookie == 0 {
			t.Errorf("%s: %#v", c.port, who)
		}
		if !strings.HasPrefix(who.App(), "netns-") {
			t.Errorf("%s: app %q", c.port, who.App())
		}
		for _, a := range addrs(c.want...) {
			if !slices.Contains(who.Addresses, a) {
				t.Errorf("%s: %v lacks %v", c.port, who.Addresses, a)
			}
		}
		if err := f.Check(who); err != nil {
			t.Errorf("%s: check: %v", c.port, err)
		}
	}
	if got["porta"].Cookie == got["portb"].Cookie {
		t.Error("two namespaces have one cookie")
	}
}

func TestNoBridge(t *testing.T) {
	f := open(t, t.TempDir())
	for _, name := range []string{"none0", "lo"} {
		if _, err := f.List(name); !errors.Is(err, ErrNoBridge) {
			t.Errorf("list %s: %v, want %v", name, err, ErrNoBridge)
		}
	}
}

// TestPortsOfNobody are the ports that no container can be named for: each says why and has nothing.
func TestPortsOfNobody(t *testing.T) {
	newBridge(t, "br0")
	br, _ := netlink.LinkByName("br0")
	why := map[string]string{"onhost": "on the host", "hidden": "no process and no mount"}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap1", MasterIndex: br.Attrs().Index}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Logf("a port that is no veth was left out: %v", err)
	} else {
		why["tap1"] = "no veth"
		t.Cleanup(func() { netlink.LinkDel(tap) })
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "onhost", MasterIndex: br.Attrs().Index}, PeerName: "onhost2"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(pair) })
	plug(t, "br0", "hidden", netlink.NsFd(hiddenNamespace(t)))

	got := list(t, open(t, t.TempDir()), "br0")
	for port, why := range why {
		c := got[port]
		if !errors.Is(c.Err, ErrUnknown) || !strings.Contains(c.Err.Error(), why) || c.App() != "" || c.Addresses != nil || c.Resolvers != nil || c.PID != 0 {
			t.Errorf("%s: %#v, %v", port, c, c.Err)
		}
	}
}

// hiddenNamespace is a namespace that only a descriptor of this process keeps.
func hiddenNamespace(t *testing.T) int {
	t.Helper()
	var ns *os.File
	elsewhere(t, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { ns.Close() })
	return int(ns.Fd())
}

// TestMountedNamespace is one without a process: its name is that of the mount if only root can have made that.
func TestMountedNamespace(t *testing.T) {
	newBridge(t, "br0")
	fd := hiddenNamespace(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "blue net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	plug(t, "br0", "mounted", netlink.NsFd(fd))
	f := open(t, t.TempDir())
	c := list(t, f, "br0")["mounted"]
	if c.Err != nil || c.Runtime != RuntimeNone || c.PID != 0 || f.Check(c) != nil {
		t.Fatalf("%#v, %v", c, f.Check(c))
	}
	if root := os.Geteuid() == 0; root && c.Name != "blue net" || !root && !strings.HasPrefix(c.Name, "netns-") {
		t.Errorf("uid %d: its name is %q", os.Geteuid(), c.Name)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if c := list(t, f, "br0")["mounted"]; !strings.HasPrefix(c.Name, "netns-") {
		t.Errorf("in a directory that everybody writes to, its name is %q", c.Name)
	}
	unix.Unmount(path, unix.MNT_DETACH)
	if err := f.Check(c); !errors.Is(err, ErrGone) {
		t.Errorf("check after the mount is gone: %v", err)
	}
}

// TestAnotherInItsPlace: a container ends and another one gets its port's name and index, its link's index and its address.
// Whoever held the first one is told that it is gone.
func TestAnotherInItsPlace(t *testing.T) {
	newBridge(t, "br0")
	old := newBox(t, "")
	old.plug(t, "br0", "porta", "10.9.0.2/24")
	f := open(t, t.TempDir())
	first := list(t, f, "br0")["porta"]
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	old.stop()
	await(t, "the link of the first container goes", func() bool { _, err := netlink.LinkByName("porta"); return err != nil })
	if err := f.Check(first); !errors.Is(err, ErrGone) {
		t.Errorf("check of one that has ended: %v", err)
	}
	next := newBox(t, "")
	next.plugAt(t, "br0", "porta", first.Port.Index, "10.9.0.2/24")
	if err := f.Check(first); !errors.Is(err, ErrGone) {
		t.Errorf("check of one in whose place is another: %v", err)
	}
	second := list(t, f, "br0")["porta"]
	if second.Err != nil || second.PID != next.pid || second.Cookie == first.Cookie || second.Port.Index != first.Port.Index || second.Port.Peer != first.Port.Peer {
		t.Errorf("first %#v\nsecond %#v, %v", first, second, second.Err)
	}
	if err := f.Check(second); err != nil {
		t.Errorf("check of the second: %v", err)
	}
}

// TestContestedAddress: what two ports have belongs to the one that had it first, or to none.
func TestContestedAddress(t *testing.T) {
	newBridge(t, "br0")
	a, b := newBox(t, ""), newBox(t, "")
	a.plug(t, "br0", "porta", "10.9.0.2/24")
	f := open(t, t.TempDir())
	list(t, f, "br0")
	b.plug(t, "br0", "portb", "10.9.0.3/24", "10.9.0.2/24")
	mine, own := addrs("10.9.0.2")[0], addrs("10.9.0.3")[0]
	got := list(t, f, "br0")
	if c := got["porta"]; !slices.Contains(c.Addresses, mine) {
		t.Errorf("the one that had it has %v, %v", c.Addresses, c.Err)
	}
	if c := got["portb"]; slices.Contains(c.Addresses, mine) || !slices.Contains(c.Addresses, own) {
		t.Errorf("the one that took it has %v, %v", c.Addresses, c.Err)
	}
	for port, c := range list(t, open(t, t.TempDir()), "br0") { // which sees both at once
		if slices.Contains(c.Addresses, mine) {
			t.Errorf("%s has %v", port, c.Addresses)
		}
	}
	if c := list(t, open(t, t.TempDir()), "br0")["porta"]; !errors.Is(c.Err, ErrContested) && len(c.Addresses) == 0 {
		t.Errorf("one without an address of its own: %#v", c)
	}
}

func TestAddressesAreBounded(t *testing.T) {
	newBridge(t, "br0")
	a := newBox(t, "")
	var many []string
	for i := range 3 * maxAddresses {
		many = append(many, fmt.Sprintf("10.9.%d.%d/16", i/250, 1+i%250))
	}
	a.plug(t, "br0", "porta", many...)
	if c := list(t, open(t, t.TempDir()), "br0")["porta"]; c.Err != nil || len(c.Addresses) != maxAddresses {
		t.Errorf("%d addresses, %v", len(c.Addresses), c.Err)
	}
}

func TestNamespaceOfAProcess(t *testing.T) {
	box := newBox(t, "")
	f := open(t, t.TempDir())
	c, err := f.Namespace("/proc/" + itoa(box.pid) + "/ns/net")
	if err != nil || c.PID != box.pid || f.Check(c) != nil {
		t.Errorf("%#v, %v", c, err)
	}
	path := filepath.Join(t.TempDir(), "n")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mount := func() {
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", hiddenNamespace(t)), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	}
	mount()
	mounted, err := f.Namespace(path)
	if err != nil || f.Check(mounted) != nil {
		t.Errorf("mounted: %#v, %v", mounted, err)
	}
	if mount(); !errors.Is(f.Check(mounted), ErrGone) {
		t.Errorf("with another one mounted there: %v", f.Check(mounted))
	}
	if _, err := f.Namespace("/proc/self/ns/net"); !errors.Is(err, ErrUnknown) {
		t.Errorf("our own namespace: %v", err)
	}
	if _, err := f.Namespace("/proc/self/status"); !errors.Is(err, ErrGone) {
		t.Errorf("no namespace: %v", err)
	}
	box.stop()
	if err := f.Check(c); !errors.Is(err, ErrGone) {
		t.Errorf("check after its end: %v", err)
	}
}
