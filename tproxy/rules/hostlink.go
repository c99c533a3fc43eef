//go:build linux

package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoLink says that a network namespace has no link to the one that we are in, or more than one.
var ErrNoLink = errors.New("not one link to this host")

// Attachment is how a network namespace hangs on this host.
type Attachment struct {
	Port   string // the host's end of its veth link
	Index  int    // of that end
	Bridge string // the bridge that this is a port of; "" for none
	MAC    net.HardwareAddr
	Addrs  []netip.Addr // of the link's end inside
}

// Attached finds the link of the network namespace at path.
func Attached(path string) (a Attachment, err error) {
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer f.Close()
	inside, err := handleIn(f)
	if errors.Is(err, unix.EINVAL) {
		return a, fmt.Errorf("%s is no network namespace", path)
	}
	if err != nil {
		return a, fmt.Errorf("go to network namespace %s: %w", path, err)
	}
	defer inside.Close()
	id, err := netlink.GetNetNsIdByFd(int(f.Fd()))
	if err != nil {
		return a, fmt.Errorf("identify network namespace %s: %w", path, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return a, fmt.Errorf("list links: %w", err)
	}
	var ports []netlink.Link
	var names []string
	for _, l := range links {
		if l.Type() == "veth" && id >= 0 && l.Attrs().NetNsID == id {
			ports, names = append(ports, l), append(names, l.Attrs().Name)
		}
	}
	if len(ports) != 1 {
		text := "it has none"
		if len(ports) > 1 {
			text = "it has " + strings.Join(names, ", ")
		}
		return a, fmt.Errorf("find veth link of %s: %w: %s", path, ErrNoLink, text)
	}
	port := ports[0].Attrs()
	a.Port, a.Index = port.Name, port.Index
	if port.MasterIndex != 0 {
		master, err := netlink.LinkByIndex(port.MasterIndex)
		if err != nil {
			return a, fmt.Errorf("find bridge of %s: %w", a.Port, err)
		}
		a.Bridge = master.Attrs().Name
	}
	end, err := inside.LinkByIndex(port.ParentIndex)
	if err != nil {
		return a, fmt.Errorf("find other end of %s: %w", a.Port, err)
	}
	a.MAC = end.Attrs().HardwareAddr
	addrs, err := inside.AddrList(end, netlink.FAMILY_ALL)
	if err != nil {
		return a, fmt.Errorf("list addresses at %s: %w", a.Port, err)
	}
	for _, addr := range addrs {
		if ip, ok := netip.AddrFromSlice(addr.IP); ok {
			a.Addrs = append(a.Addrs, ip.Unmap())
		}
	}
	return a, nil
}

// handleIn opens a netlink socket in another network namespace.
func handleIn(namespace *os.File) (h *netlink.Handle, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and ends with the goroutine if it cannot come back
		if err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return h, err
}

// InputDrops are the chains of others that drop what is delivered on this host unless they have a reason not to, as "FAMILY
// TABLE CHAIN". What the door takes is delivered here, and must pass them.
func InputDrops() (list []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", told(err))
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Hooknum == nftables.ChainHook(unix.NF_INET_LOCAL_IN) && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop &&
			c.Table.Family != nftables.TableFamilyBridge && c.Table.Family != nftables.TableFamilyARP && c.Table.Family != nftables.TableFamilyNetdev {
			list = append(list, tableFamily(c.Table.Family)+" "+c.Table.Name+" "+c.Name)
		}
	}
	return list, nil
}
