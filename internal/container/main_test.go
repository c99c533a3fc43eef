//go:build linux

package container

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
	"github.com/weir-dev/weir/internal/testpodman"
)

// The tests run in network and mount namespaces of their own, those of an ordinary user in a user namespace, too; bridges,
// links and namespaces that they make are gone with them. The test binary plays the other processes, too:
//
//	box DIR         the first process of a container: goes to a new root directory, if DIR is not "", and waits
//	conmon -c ID .. the monitor of a container, which it starts in a new network namespace
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "box":
		os.Exit(box(os.Args[1]))
	case "conmon":
		os.Exit(monitor())
	}
	if playground.Inside() || testpodman.Inside() {
		os.Exit(m.Run())
	}
	enter := playground.Enter
	if os.Geteuid() == 0 {
		enter = testpodman.Enter
	}
	status, err := enter()
	if err != nil {
		fmt.Fprintf(os.Stderr, "the tests need namespaces of their own: %v\n", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func box(root string) int {
	if root != "" {
		if err := unix.Chroot(root); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("ready", os.Getpid())
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func monitor() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"box", ""}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// aBox is a process in a network namespace of its own.
type aBox struct {
	cmd   *exec.Cmd
	stdin io.Closer
	pid   int // of the first process in the namespace
}

// start runs this binary as cmd says, and waits until its part is ready.
func start(t *testing.T, cmd *exec.Cmd) *aBox {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &aBox{cmd: cmd, stdin: stdin}
	t.Cleanup(b.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if _, scan := fmt.Sscanf(line, "ready %d", &b.pid); err != nil || scan != nil {
		t.Fatalf("the box said %q, %v", line, err)
	}
	return b
}

func (b *aBox) stop() {
	b.stdin.Close()
	b.cmd.Wait()
}

// newBox makes a namespace with a process whose root directory is root ("" for the host's).
func newBox(t *testing.T, root string) *aBox {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"box", root}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return start(t, cmd)
}

// newMonitored makes a namespace whose first process is the child of a program of this name with these arguments.
func newMonitored(t *testing.T, program string, args ...string) *aBox {
	t.Helper()
	path := filepath.Join(t.TempDir(), program)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Args[0] = "conmon"
	return start(t, cmd)
}

// newBridge makes a bridge of the host.
func newBridge(t *testing.T, name string) {
	t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatalf("make bridge: %v", err)
	}
	for _, a := range []string{"10.9.255.254/16", "fd09::fffe/64"} {
		if addr, err := netlink.ParseAddr(a); err != nil || netlink.AddrAdd(link, addr) != nil {
			t.Fatalf("give bridge %s: %v", a, err)
		}
	}
	t.Cleanup(func() { netlink.LinkDel(link) })
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

// plug joins the box to the bridge by a link that has these addresses inside.
func (b *aBox) plug(t *testing.T, bridge, port string, addresses ...string) {
	t.Helper()
	b.plugAt(t, bridge, port, 0, addresses...)
}

// plugAt is plug with the port's index, 0 for any.
func (b *aBox) plugAt(t *testing.T, bridge, port string, index int, addresses ...string) {
	t.Helper()
	addPort(t, bridge, port, index, netlink.NsPid(b.pid))
	b.inside(t, func() {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Error(err)
				return
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				t.Errorf("add %s: %v", a, err)
			}
		}
	})
}

func plug(t *testing.T, bridge, port string, namespace any) {
	t.Helper()
	addPort(t, bridge, port, 0, namespace)
}

func addPort(t *testing.T, bridge, port string, index int, namespace any) {
	t.Helper()
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, Index: index, MasterIndex: master.Attrs().Index}, PeerName: "eth0", PeerNamespace: namespace}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("make link: %v", err)
	}
	t.Cleanup(func() { netlink.LinkDel(pair) })
}

// inside runs do in the box's network namespace.
func (b *aBox) inside(t *testing.T, do func()) {
	t.Helper()
	ns, err := os.Open("/proc/" + itoa(b.pid) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	elsewhere(t, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		do()
		return nil
	})
}

// elsewhere runs do, which goes to another network namespace, on a thread that comes back.
func elsewhere(t *testing.T, do func() error) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	err = do()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // the thread is of no more use, to any test
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatalf("go to another namespace: %v", err)
	}
}

func open(t *testing.T, root string) *Finder {
	t.Helper()
	f, err := newFinder(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// list returns who is on the bridge, by port name.
func list(t *testing.T, f *Finder, bridge string) map[string]Container {
	t.Helper()
	all, err := f.List(bridge)
	if err != nil {
		t.Fatal(err)
	}
	byPort := map[string]Container{}
	for _, c := range all {
		byPort[c.Port.Name] = c
	}
	return byPort
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// await waits until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
