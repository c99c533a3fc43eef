//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tproxy/rules"
)

// linkName is the name of the link inside.
const linkName = "eth0"

// network is what the launcher gets of the network namespace: descriptors, in the order of the ready message.
type network struct {
	link      int // -1 with the tproxy door
	info      LinkInfo
	dial      int
	diag      int // -1 if the kernel has none
	netns     int // -1 where init's own will do
	listeners []listener
	sockets   []rules.Socket // of the tproxy door
}

type listener struct {
	port uint16
	fd   int
}

func (n *network) ready() message {
	m := message{Op: opReady, Link: n.info, Diag: n.diag >= 0, NetNS: n.netns >= 0}
	for _, l := range n.listeners {
		m.Ports = append(m.Ports, l.port)
	}
	for _, s := range n.sockets {
		m.Sockets = append(m.Sockets, s.Kind)
	}
	return m
}

func (n *network) fds() []int {
	fds := []int{n.dial}
	if n.link >= 0 {
		fds = append(fds, n.link)
	}
	if n.diag >= 0 {
		fds = append(fds, n.diag)
	}
	if n.netns >= 0 {
		fds = append(fds, n.netns)
	}
	for _, l := range n.listeners {
		fds = append(fds, l.fd)
	}
	for _, s := range n.sockets {
		fds = append(fds, s.FD)
	}
	return fds
}

// close drops init's copies: the network must end with the launcher's.
func (n *network) close() { closeAll(n.fds()) }

// buildNetwork makes the link and configures it, and opens every socket that must belong to this namespace.
func buildNetwork(spec Spec) (*network, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, &SetupError{Step: StepAddress, Path: "netlink", Err: err}
	}
	defer h.Close()
	n := &network{link: -1, diag: -1, netns: -1}
	if spec.Door == DoorTProxy {
		n.info = LinkInfo{Kind: DoorTProxy}
	} else if n.link, n.info, err = makeLink(spec); err == nil {
		err = configure(h, spec, n.info)
	}
	if err == nil && (spec.Door == DoorTProxy || spec.Door == DoorBoth) {
		err = n.openDoor(spec)
	}
	if err != nil {
		return nil, err
	}
	if n.listeners, err = listenAll(spec.HostPorts); err != nil {
		return nil, err
	}
	if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG); err == nil {
		n.diag = fd
	}
	n.dial, err = serveDial()
	return n, err
}

// makeLink tries what the spec allows, best first. It never leaves the sandbox with another kind of network.
func makeLink(spec Spec) (int, LinkInfo, error) {
	if spec.Link == "veth" {
		return makeVeth(spec)
	}
	fd, info, err := makeTap(spec)
	if err == nil || spec.Link == "tap" || spec.isEngine() {
		return fd, info, err
	}
	fd, info, verr := makeVeth(spec)
	if verr != nil {
		return -1, LinkInfo{}, &SetupError{Step: StepLink, Err: fmt.Errorf("%w; %w", err, verr)}
	}
	return fd, info, nil
}

// configure gives lo and the link their addresses, routes and neighbours. There is one on-link address, the gateway,
// and its neighbour entry is permanent: ARP and neighbour discovery have nothing to do and are off.
func configure(h *netlink.Handle, spec Spec, info LinkInfo) error {
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return &SetupError{Step: StepAddress, Path: "lo", Err: err}
	}
	link, err := h.LinkByName(linkName)
	if err != nil {
		return &SetupError{Step: StepAddress, Path: linkName, Err: err}
	}
	queue := queueOffload
	if !info.TSO {
		queue = queuePlain
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mac address", func() error { return h.LinkSetHardwareAddr(link, spec.GuestMAC) }},
		{"mtu", func() error { return h.LinkSetMTU(link, spec.MTU) }},
		{"queue length", func() error { return h.LinkSetTxQLen(link, queue) }},
		{"arp off", func() error { return h.LinkSetARPOff(link) }},
		{"no link-local address", func() error { return noLinkLocal(h, link) }},
		{"up", func() error { return h.LinkSetUp(link) }},
		{"IPv4", func() error { return addFamily(h, link, spec.Addr4, spec.Gateway4, spec.GatewayMAC) }},
		{"IPv6", func() error { return addFamily(h, link, spec.Addr6, spec.Gateway6, spec.GatewayMAC) }},
	} {
		if err := step.do(); err != nil {
			return &SetupError{Step: StepAddress, Path: linkName, Err: fmt.Errorf("%s: %w", step.what, err)}
		}
	}
	return nil
}

const (
	queueOffload = 1000  // packets of up to 64 KiB each
	queuePlain   = 10000 // a window of MTU-sized segments must fit
)

// noLinkLocal keeps the kernel from giving the link an fe80:: address, which would be a second source address.
func noLinkLocal(h *netlink.Handle, link netlink.Link) error {
	const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
	err := h.LinkSetIP6AddrGenMode(link, addrGenModeNone)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a kernel without IPv6
	}
	return err
}

// addFamily gives link one address, one neighbour and the routes of one family. A zero addr is no family.
func addFamily(h *netlink.Handle, link netlink.Link, addr, gateway netip.Addr, mac net.HardwareAddr) error {
	if !addr.IsValid() {
		return nil
	}
	index, gw := link.Attrs().Index, net.IP(gateway.AsSlice())
	flags := 0
	if addr.Is6() {
		flags = unix.IFA_F_NODAD // nobody else is on the link
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: hostNet(addr), Flags: flags}); err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	neigh := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: mac}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("add neighbour %s: %w", gateway, err)
	}
	onLink := &netlink.Route{LinkIndex: index, Dst: hostNet(gateway), Scope: netlink.SCOPE_LINK}
	if err := h.RouteAdd(onLink); err != nil {
		return fmt.Errorf("add route to %s: %w", gateway, err)
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if addr.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	def := &netlink.Route{LinkIndex: index, Gw: gw, Dst: &net.IPNet{
		IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())}}
	if err := h.RouteAdd(def); err != nil {
		return fmt.Errorf("add default route by %s: %w", gateway, err)
	}
	return nil
}

// hostNet is addr with all of its bits as prefix: /32 or /128.
func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// tuneKernel writes the settings that live in the new namespaces, by way of a proc that is not mounted anywhere yet:
// the one that is may be read-only. It comes before the link, which takes its IPv6 settings from "default".
func tuneKernel(proc tree, spec Spec) error {
	group := strconv.Itoa(os.Getegid())
	settings := [][2]string{
		{"net/ipv4/ip_unprivileged_port_start", "0"},
		{"net/ipv4/ping_group_range", group + " " + group}, // ping without CAP_NET_RAW
		{"net/ipv4/conf/default/accept_redirects", "0"},
		{"net/ipv6/conf/default/accept_redirects", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/autoconf", "0"},
	}
	if !spec.Addr6.IsValid() {
		settings = append(settings, [2]string{"net/ipv6/conf/default/disable_ipv6", "1"})
	}
	for i := range settings {
		settings[i][0] = "sys/" + settings[i][0]
	}
	return writeSettings(proc, settings) // a kernel without IPv6 has nothing to switch off
}

func writeSetting(proc tree, name, value string) error {
	fd, err := unix.Openat(proc.fd, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
