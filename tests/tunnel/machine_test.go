//go:build linux

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/impair"
)

// machine is a computer of the laboratory: an OS thread in network and mount namespaces of its own, which makes the
// machine's sockets and starts its programs. Programs live as long as the thread does at the most.
type machine struct {
	name string
	dir  string // its resolv.conf and hosts, and the homes of its programs
	work chan func()
	ns   int // the network namespace
}

// newMachine starts a computer that has a loopback, and resolv.conf and hosts with this text.
func newMachine(t *testing.T, name, resolvConf, hosts string) *machine {
	t.Helper()
	m := &machine{name: name, dir: t.TempDir(), work: make(chan func())}
	m.write(t, "resolv.conf", resolvConf)
	m.write(t, "hosts", "127.0.0.1 localhost\n"+hosts)
	booted := make(chan error)
	go m.live(booted)
	if err := <-booted; err != nil {
		t.Fatalf("start machine %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(m.work)
		unix.Close(m.ns)
	})
	return m
}

// write changes one of the machine's files, in place: it may be mounted over another.
func (m *machine) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// live is the machine's thread. It is never unlocked, so it ends with the machine.
func (m *machine) live(booted chan<- error) {
	runtime.LockOSThread()
	err := m.boot()
	booted <- err
	if err != nil {
		return
	}
	for f := range m.work {
		f()
	}
}

func (m *machine) boot() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	for _, name := range []string{"resolv.conf", "hosts"} {
		target, err := filepath.EvalSymlinks("/etc/" + name)
		if err == nil {
			err = unix.Mount(filepath.Join(m.dir, name), target, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if m.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	// What is started from here on has none of the capabilities that made all this.
	return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
}

// do runs f on the machine: sockets and links that it makes are the machine's.
func (m *machine) do(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	m.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatalf("on %s: %v", m.name, err)
	}
}

// start starts a program of the machine, with a home of its own.
func (m *machine) start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if cmd.Env == nil {
		cmd.Env = m.environ()
	}
	m.do(t, cmd.Start)
}

func (m *machine) environ() []string {
	home := filepath.Join(m.dir, "home")
	os.MkdirAll(filepath.Join(home, "run"), 0o700)
	return append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home+"/data", "XDG_STATE_HOME="+home+"/state", "XDG_CONFIG_HOME="+home+"/config",
		"XDG_RUNTIME_DIR="+home+"/run")
}

// address gives the machine an address, on lo.
func (m *machine) address(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	m.do(t, func() error { return configure("lo", nil, prefixes(addrs)...) })
}

func prefixes(addrs []netip.Addr) (list []netip.Prefix) {
	for _, a := range addrs {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list
}

// configure gives a link addresses, sets it up and routes to be reached by it.
func configure(name string, routes []netip.Prefix, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, a := range addrs {
		one := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			one.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, one); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, r := range routes {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r)}); err != nil {
			return fmt.Errorf("add route %s by %s: %w", r, name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// tun gives the machine a link whose other end is the file.
func (m *machine) tun(t *testing.T, name string, routes []netip.Prefix, addrs ...netip.Prefix) (f *os.File) {
	t.Helper()
	m.do(t, func() (err error) {
		if f, err = impair.OpenTUN(name); err == nil {
			err = configure(name, routes, addrs...)
		}
		return err
	})
	return f
}

// cable joins two machines by a link of the kernel's.
func cable(t *testing.T, a *machine, nameA string, addrA netip.Prefix, b *machine, nameB string, addrB netip.Prefix) {
	t.Helper()
	a.do(t, func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA, MTU: 1500}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.ns)}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("join machines: %w", err)
		}
		return configure(nameA, nil, addrA)
	})
	b.do(t, func() error { return configure(nameB, nil, addrB) })
}

// listen serves TCP connections with serve, which owns them.
func (m *machine) listen(t *testing.T, at netip.AddrPort, serve func(net.Conn)) net.Listener {
	t.Helper()
	var ln net.Listener
	m.do(t, func() (err error) {
		ln, err = net.Listen("tcp", at.String())
		return err
	})
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return ln
}

// listenPacket opens a UDP socket.
func (m *machine) listenPacket(t *testing.T, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var pc *net.UDPConn
	m.do(t, func() (err error) {
		pc, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { pc.Close() })
	return pc
}

// dial connects from the machine. The address must be an IP literal.
func (m *machine) dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	var c net.Conn
	m.do(t, func() (err error) {
		c, err = (&net.Dialer{}).DialContext(context.Background(), network, address)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}
