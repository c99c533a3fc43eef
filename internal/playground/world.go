//go:build linux

package playground

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the uplink and of the world's DNS server.
var (
	Host4     = netip.MustParsePrefix("192.0.2.2/24")
	Host6     = netip.MustParsePrefix("2001:db8::2/64")
	router4   = netip.MustParsePrefix("192.0.2.1/24")
	router6   = netip.MustParsePrefix("2001:db8::1/64")
	DNSServer = netip.MustParseAddr("198.51.100.53")

	// Unreachable is where the host's network says that there is no such host.
	Unreachable = netip.MustParsePrefix("203.0.113.224/27")
)

const (
	uplink = "uplink0"
	far    = "internet0"
)

// World is the playground that a process is in. Make it with Open, once.
type World struct {
	// Dir holds the world's files: ca.pem, resolv.conf. It is removed by Close.
	Dir string

	ca       *authority
	internet *os.File // the namespace

	mu       sync.Mutex
	zone     map[string][]string
	handlers map[string]dns.HandlerFunc
	overhear func(raw []byte)
	queries  []string
	added    map[netip.Addr]bool
	closers  []func()
}

// Open builds the world around the calling process, which must be [Inside]. The process itself stays on the host.
func Open() (*World, error) {
	if !Inside() {
		return nil, errors.New("open playground: not inside one")
	}
	if err := awaitIDs(); err != nil {
		return nil, fmt.Errorf("open playground: %w", err)
	}
	dir, err := os.MkdirTemp("", "weir-playground-")
	if err != nil {
		return nil, fmt.Errorf("open playground: %w", err)
	}
	w := &World{Dir: dir, zone: map[string][]string{}, handlers: map[string]dns.HandlerFunc{}, added: map[netip.Addr]bool{}}
	for _, step := range []func() error{w.makeInternet, w.makeUplink, w.mountResolvConf, w.makeAuthority, w.serveDNS} {
		if err := step(); err != nil {
			w.Close()
			return nil, fmt.Errorf("open playground: %w", err)
		}
	}
	return w, nil
}

// Close ends the servers and removes the files. The namespaces go with the process.
func (w *World) Close() {
	w.mu.Lock()
	closers := w.closers
	w.closers = nil
	w.mu.Unlock()
	for _, c := range closers {
		c()
	}
	os.RemoveAll(w.Dir)
}

func (w *World) onClose(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closers = append(w.closers, f)
}

// makeInternet makes the second namespace, on a thread that comes back.
func (w *World) makeInternet() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make internet namespace: %w", err)
		}
		var err error
		w.internet, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
}

// onThread runs f on an OS thread that goes back to the host's namespace afterwards.
func onThread(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	ferr := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("return to host namespace: %w", err) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return ferr
}

// Internet runs f with sockets and links of the internet: those it makes belong there for good. f must not start
// goroutines that make some of their own.
func (w *World) Internet(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(w.internet.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("go to internet namespace: %w", err)
		}
		return f()
	})
}

// makeUplink joins the two namespaces.
func (w *World) makeUplink() error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: uplink, MTU: 1500}, PeerName: far, PeerNamespace: netlink.NsFd(w.internet.Fd())}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make uplink: %w", err)
	}
	if err := configure(uplink, Host4, Host6, router4.Addr(), router6.Addr()); err != nil {
		return err
	}
	nowhere := &netlink.Route{Dst: network(Unreachable), Type: unix.RTN_UNREACHABLE}
	if err := netlink.RouteAdd(nowhere); err != nil {
		return fmt.Errorf("add unreachable route: %w", err)
	}
	return w.Internet(func() error { return configure(far, router4, router6, netip.Addr{}, netip.Addr{}) })
}

// configure gives a link its addresses and default routes, and brings lo up.
func configure(name string, addr4, addr6 netip.Prefix, via4, via6 netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, a := range []netip.Prefix{addr4, addr6} {
		if err := netlink.AddrAdd(link, address(a)); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	for _, l := range []netlink.Link{lo, link} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	for _, via := range []netip.Addr{via4, via6} {
		if !via.IsValid() {
			continue
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add default route via %s: %w", via, err)
		}
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: network(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// mountResolvConf makes the world's DNS server the host's resolver, in this process's mount namespace only.
func (w *World) mountResolvConf() error {
	path := filepath.Join(w.Dir, "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver "+DNSServer.String()+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("find resolv.conf: %w", err)
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount resolv.conf: %w", err)
	}
	return nil
}

// Address gives the internet an address, so that servers can be opened on it.
func (w *World) Address(a netip.Addr) error {
	w.mu.Lock()
	known := w.added[a]
	w.added[a] = true
	w.mu.Unlock()
	if known {
		return nil
	}
	return w.Internet(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.AddrAdd(lo, address(netip.PrefixFrom(a, a.BitLen()))); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
		return nil
	})
}

// Sent returns how many packets left the host over the uplink so far.
func (w *World) Sent() (uint64, error) {
	link, err := netlink.LinkByName(uplink)
	if err != nil {
		return 0, fmt.Errorf("find uplink: %w", err)
	}
	return link.Attrs().Statistics.TxPackets, nil
}
