//go:build linux

package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostNet is a host of its own for one test: a network namespace with an uplink to the world's internet, which knows the way
// to its containers, and a bridge.
type hostNet struct {
	t  *testing.T
	n  int
	ns *os.File
}

// hosts numbers them, so that their networks differ.
var hosts atomic.Int64

// box is a container made by hand: a network namespace with one link to the bridge, and a process in it.
type box struct {
	host  *hostNet
	ns    *os.File
	cmd   *exec.Cmd
	port  string
	addr4 string
	addr6 string
}

// app is the name that weir gives to a namespace that no engine has made.
func (b *box) app() string {
	var st unix.Stat_t
	if err := unix.Fstat(int(b.ns.Fd()), &st); err != nil {
		b.host.t.Fatal(err)
	}
	return fmt.Sprintf("netns-%d", st.Ino)
}

func newHostNet(t *testing.T) *hostNet {
	t.Helper()
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("this host lacks %s", program)
			}
			t.Skipf("this host lacks %s", program)
		}
	}
	h := &hostNet{t: t, n: int(hosts.Add(1))}
	h.ns = newNamespace(t)
	up, far := fmt.Sprintf("up%d", h.n), fmt.Sprintf("far%d", h.n)
	h.ip("link set lo up")
	h.ip("link add %s type veth peer name %s", up, far)
	h.ip("addr add 192.0.%d.2/24 dev %s", 100+h.n, up)
	h.ip("addr add 2001:db8:f%d::2/64 dev %s nodad", h.n, up)
	h.ip("link set %s up", up)
	h.giveLink(far)
	world.Internet(func() error {
		for _, c := range []string{
			fmt.Sprintf("addr add 192.0.%d.1/24 dev %s", 100+h.n, far), fmt.Sprintf("addr add 2001:db8:f%d::1/64 dev %s nodad", h.n, far),
			fmt.Sprintf("link set %s up", far), fmt.Sprintf("route add 10.99.%d.0/24 via 192.0.%d.2", h.n, 100+h.n),
			fmt.Sprintf("-6 route add fd88:%d::/64 via 2001:db8:f%d::2", h.n, h.n),
		} {
			run(t, "ip", strings.Fields(c)...)
		}
		return nil
	})
	h.ip("route add default via 192.0.%d.1", 100+h.n)
	h.ip("-6 route add default via 2001:db8:f%d::1", h.n)
	h.sysctl("net/ipv4/ip_forward", "1")
	h.sysctl("net/ipv6/conf/all/forwarding", "1")
	h.routed(fmt.Sprintf("2001:db8:f%d::2", h.n))
	h.addBridge()
	return h
}

func (h *hostNet) addBridge() {
	h.t.Helper()
	h.ip("link add br0 type bridge")
	h.ip("addr add %s/24 dev br0", h.gateway4())
	h.ip("addr add %s/64 dev br0 nodad", h.gateway6())
	h.ip("link set br0 up")
	h.routed(h.gateway6())
}

// routed waits until the kernel is done with an IPv6 address: the routes of one are made by a worker of its own, even without
// duplicate detection, and would be new to whoever compares snapshots.
func (h *hostNet) routed(address string) {
	h.t.Helper()
	network, _, _ := strings.Cut(address, "::")
	if !soon(func() bool {
		table := h.do("ip", "-6", "route", "show", "table", "local")
		return strings.Contains(table, "local "+address+" dev") && strings.Contains(table, "anycast "+network+":: dev")
	}) {
		h.t.Fatalf("the kernel has no routes for %s", address)
	}
}

func (h *hostNet) gateway4() string { return fmt.Sprintf("10.99.%d.1", h.n) }
func (h *hostNet) gateway6() string { return fmt.Sprintf("fd88:%d::1", h.n) }

// giveLink moves a link of the host to the internet.
func (h *hostNet) giveLink(name string) {
	h.t.Helper()
	// A process that is there names the namespace.
	holder := exec.Command("sleep", "60")
	if err := world.Internet(holder.Start); err != nil {
		h.t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	h.ip("link set %s netns %d", name, holder.Process.Pid)
}

// newNamespace makes a network namespace.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	var ns *os.File
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal("make namespace:", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func inNamespace(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// in runs f in the host's namespace.
func (h *hostNet) in(f func() error) error { return inNamespace(h.ns, f) }

// out runs a program in a namespace and returns what it says and how it ended.
func out(ns *os.File, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	// A thread that ends must not take the program along, so the start is all that it does.
	err := inNamespace(ns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return b.String(), err
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	b, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, b)
	}
	return string(b)
}

// do runs a program on the host; it must go well.
func (h *hostNet) do(name string, args ...string) string {
	h.t.Helper()
	s, err := out(h.ns, name, args...)
	if err != nil {
		h.t.Fatalf("%s %v: %v\n%s", name, args, err, s)
	}
	return s
}

func (h *hostNet) ip(format string, args ...any) {
	h.t.Helper()
	h.do("ip", strings.Fields(fmt.Sprintf(format, args...))...)
}

func (h *hostNet) sysctl(path, value string) {
	h.t.Helper()
	if err := h.in(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }); err != nil {
		h.t.Fatal(err)
	}
}

// snapshot is all that the door could change.
func (h *hostNet) snapshot() string {
	h.t.Helper()
	soon(func() bool { return h.do("ip", "-o", "addr", "show", "up", "tentative", "scope", "global") == "" })
	var s strings.Builder
	for _, c := range []string{"nft -s list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip -o addr"} {
		f := strings.Fields(c)
		s.WriteString("# " + c + "\n")
		for line := range strings.Lines(h.do(f[0], f[1:]...)) {
			if !strings.Contains(line, "fe80:") && !strings.Contains(line, "ff00::/8") { // which the kernel adds when it is ready
				s.WriteString(line)
			}
		}
	}
	h.in(func() error {
		for _, pattern := range []string{"bridge/*", "ipv4/*", "ipv4/conf/*/*", "ipv6/conf/*/*", "netfilter/*"} {
			files, _ := filepath.Glob("/proc/sys/net/" + pattern)
			for _, f := range files {
				if strings.Contains(f, "conntrack_count") || strings.Contains(f, "stable_secret") {
					continue
				}
				if b, err := os.ReadFile(f); err == nil {
					s.WriteString(f + " " + string(b))
				}
			}
		}
		return nil
	})
	return s.String()
}

// unchanged fails where the host's network is not as it was.
func (h *hostNet) unchanged(before string) {
	h.t.Helper()
	after := h.snapshot()
	if after == before {
		return
	}
	had := map[string]int{}
	for line := range strings.Lines(before) {
		had[line]++
	}
	for line := range strings.Lines(after) {
		if had[line]--; had[line] < 0 {
			h.t.Errorf("new: %s", line)
		}
	}
	for line, n := range had {
		if n > 0 {
			h.t.Errorf("gone: %s", line)
		}
	}
}

// box adds a container with the address .last, at port p<last>.
func (h *hostNet) box(last int) *box {
	h.t.Helper()
	b := h.unattached(last)
	h.ip("link set %s master br0", b.port)
	return b
}

// unattached is a box whose link is on no bridge.
func (h *hostNet) unattached(last int) *box {
	h.t.Helper()
	b := &box{host: h, ns: newNamespace(h.t), port: fmt.Sprintf("p%d", last),
		addr4: fmt.Sprintf("10.99.%d.%d", h.n, last), addr6: fmt.Sprintf("fd88:%d::%d", h.n, last)}
	b.cmd = exec.Command("sleep", "600")
	if err := inNamespace(b.ns, b.cmd.Start); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { b.cmd.Process.Kill(); b.cmd.Wait() })
	h.ip("link add %s type veth peer name eth0 netns %d", b.port, b.cmd.Process.Pid)
	h.ip("link set %s up", b.port)
	for _, c := range []string{"link set lo up", "addr add " + b.addr4 + "/24 dev eth0", "addr add " + b.addr6 + "/64 dev eth0 nodad",
		"link set eth0 up", "route add default via " + h.gateway4(), "-6 route add default via " + h.gateway6()} {
		b.do("ip", strings.Fields(c)...)
	}
	return b
}

// do runs a program in the box; it must go well.
func (b *box) do(name string, args ...string) string {
	b.host.t.Helper()
	s, err := out(b.ns, name, args...)
	if err != nil {
		b.host.t.Fatalf("%s %v: %v\n%s", name, args, err, s)
	}
	return s
}

// probe runs tests/probe in the box and returns what it prints.
func (b *box) probe(args ...string) string {
	b.host.t.Helper()
	s, _ := out(b.ns, filepath.Join(binDir(), "probe"), args...)
	return strings.TrimSpace(s)
}

// open says whether something outside answers the box, and soon.
func (b *box) open(what ...string) bool {
	s, err := out(b.ns, "timeout", append([]string{"2", filepath.Join(binDir(), "probe")}, what...)...)
	return err == nil && !strings.Contains(s, "error")
}

// listenIn runs an echo server in the box.
func listenIn(b *box, port int) (ln net.Listener, err error) {
	err = inNamespace(b.ns, func() error {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return ln, nil
}

// startWithout starts cmd on this thread without the playground's capabilities, which are lost to the thread.
func startWithout(cmd *exec.Cmd) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil { // root has them again by execve otherwise
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return err
	}
	return cmd.Start()
}

// upDoor is a running weir tproxy up.
type upDoor struct {
	host   *hostNet
	cmd    *exec.Cmd
	status string // what it said when it was up
	events string
	stderr *lockedBuffer
	done   chan struct{}
}

// lockedBuffer is what a program says, while it says it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// weir is the command under test on the host, with the capabilities of the playground.
func (h *hostNet) weir(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binDir(), "weir-under-test"), args...)
	cmd.Args[0] = "weir"
	h.t.Cleanup(func() {
		if cmd.ProcessState == nil && cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	cmd.Env = stateOf(h.t)
	return cmd
}

// up starts weir tproxy up and waits until it is.
func (h *hostNet) up(args ...string) *upDoor {
	h.t.Helper()
	u := &upDoor{host: h, events: filepath.Join(h.t.TempDir(), "events.jsonl"), stderr: &lockedBuffer{}, done: make(chan struct{})}
	u.cmd = h.weir(append([]string{"tproxy", "up", "--json", "--events", u.events}, args...)...)
	u.cmd.Stderr = u.stderr
	stdout, err := u.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.in(u.cmd.Start); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		u.cmd.Process.Kill()
		<-u.done
		if h.t.Failed() {
			events, _ := os.ReadFile(u.events)
			h.t.Logf("stderr of weir:\n%s\nevents:\n%s", u.stderr, events)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		u.cmd.Wait()
		close(u.done)
	}()
	if err != nil {
		<-u.done
		h.t.Fatalf("weir tproxy up: %v\n%s", err, u.stderr)
	}
	u.status = line
	return u
}

// end ends it by a signal.
func (u *upDoor) end(signal syscall.Signal) {
	u.host.t.Helper()
	u.cmd.Process.Signal(signal)
	select {
	case <-u.done:
	case <-time.After(patience):
		u.host.t.Fatal("weir tproxy up does not end")
	}
}

// hostEvent is a line of the event log, as far as these tests look.
type hostEvent struct {
	Event, App, Sandbox string
	Details             struct {
		Hostname, Verdict, Reason, Door, Protocol, What, Server string
		Dest_IP, Src_IP                                         netip.Addr
		Dest_Port                                               int
		Count                                                   int
		Process                                                 *struct{ Exe string }
	}
}

// read returns the events so far.
func (u *upDoor) read() (list []hostEvent) {
	u.host.t.Helper()
	text, err := os.ReadFile(u.events)
	if err != nil {
		u.host.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e hostEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			u.host.t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// await waits for an event that fits.
func (u *upDoor) await(what string, fits func(hostEvent) bool) {
	u.host.t.Helper()
	if !soon(func() bool {
		for _, e := range u.read() {
			if fits(e) {
				return true
			}
		}
		return false
	}) {
		u.host.t.Errorf("no event: %s", what)
	}
}

// dropped counts what was dropped under a name.
func (u *upDoor) awaitDropped(b *box, what string) {
	u.host.t.Helper()
	u.await(what+" of "+b.port, func(e hostEvent) bool { return e.Event == "dropped" && e.App == b.app() && e.Details.What == what })
}
