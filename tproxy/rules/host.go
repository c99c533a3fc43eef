//go:build linux

package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What [OpenHost] can say besides errors of the system.
var (
	// ErrPrivilege says that the process may not change this network namespace: it lacks CAP_NET_ADMIN over it.
	ErrPrivilege = errors.New("not allowed to change the network here: that needs CAP_NET_ADMIN and CAP_NET_RAW")
	// ErrNoNFTables and ErrNoTPROXY say what the kernel has not.
	ErrNoNFTables = errors.New("this kernel has no nf_tables, or not for bridges")
	ErrNoTPROXY   = errors.New("this kernel has no TPROXY for nf_tables")
	// ErrNoBridge says that there is no such link, or that it is no bridge.
	ErrNoBridge = errors.New("no such bridge")
	// ErrNoNumbers says that others use every number that could mark packets.
	ErrNoNumbers = errors.New("no free packet mark, routing table or rule priority")
)

// HostConfig says what the door on the host stands before.
type HostConfig struct {
	// Link is the bridge that the containers are on, or, with Single, the host's end of one container's link.
	Link string
	// Single says that Link is no bridge.
	Single bool
	// Only is the one port of the bridge that the door is for; with "" it is for all.
	Only string
}

// Guest is one container as the rules know it.
type Guest struct {
	// Port is the host's end of its link; it names the guest, and Index is its index. MAC and Addrs are those that it may
	// send from.
	Port  string
	Index int
	MAC   net.HardwareAddr
	Addrs []netip.Addr
	// Resolvers are the servers that its questions go to: those to port 53 come to the sockets of KindDNS and KindDNS2.
	Resolvers []netip.Addr
}

// Host is the door's set-up in the network namespace of the host. Make it with [OpenHost] and Close it.
//
// What it makes are one nftables table of each family, called [TableName], and for each of IPv4 and IPv6 an ip rule and a
// route, marked as weir's by their protocol. All of it is found by these marks, by [RemoveHost] too. A guest is let through
// once it is added; before that, and after the process has died without Close, nothing that comes in by the link is carried.
type Host struct {
	cfg     HostConfig
	numbers numbers
	v6      bool // the host's kernel has IPv6

	mu      sync.Mutex
	bridge  net.HardwareAddr // that the rules have; nil for none
	rulings []string         // what there was of chains and rules when they were made
	guests  map[string]*guest
	unknown []string // ports without a known container
	records []sysctl
	holding holding
}

// guest is a Guest with its sockets' numbers.
type guest struct {
	Guest
	tcp, udp, dns, dns2 [2]uint16 // ports of the listeners, IPv4 and IPv6; 0 where the guest has no such address
	group               uint16    // of NFLOG
	queue               uint16    // of NFQUEUE
	held                bool      // whether it has one
}

// TableName is what the door's nftables tables are called.
func TableName(link string) string { return tablePrefix + link }

const tablePrefix = "weir-"

// OpenHost sets the door up; it takes over what a process that died has left. On error the host's network is as it was.
func OpenHost(cfg HostConfig) (h *Host, err error) {
	h = &Host{cfg: cfg, guests: map[string]*guest{}}
	if err := h.check(); err != nil {
		return nil, err
	}
	found, err := findHost(cfg.Link)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && found.empty() { // what a crash left goes on closing the way
			RemoveHost(cfg.Link)
		}
	}()
	h.records = found.sysctls
	if err := h.numbers.choose(cfg.Link); err != nil {
		return nil, err
	}
	if err := h.readSysctls(); err != nil {
		return nil, err
	}
	if err := h.install(); err != nil {
		return nil, err
	}
	if err := removeRoutes(found); err != nil {
		return nil, err
	}
	if h.v6, err = h.addRoutes(); err != nil {
		return nil, err
	}
	if err := h.writeSysctls(); err != nil {
		return nil, err
	}
	return h, nil
}

// check finds the link, and asks the kernel for all that the rules will need.
func (h *Host) check() error {
	if err := ProbeHost(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(h.cfg.Link)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return fmt.Errorf("find %q: %w", h.cfg.Link, ErrNoBridge)
	case err != nil:
		return fmt.Errorf("find %q: %w", h.cfg.Link, err)
	case !h.cfg.Single && link.Type() != "bridge":
		return fmt.Errorf("find %q: it is a %s: %w", h.cfg.Link, link.Type(), ErrNoBridge)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("lo is down: set it up first (ip link set lo up)")
	}
	return nil
}

// Bridges are the names of the bridges that there are.
func Bridges() (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Type() == "bridge" {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Marks are the values that the door sets in packet marks, in the bits of Mask: Upstream is for sockets that go out.
type Marks struct{ Mask, Seen, Door, Reply, Upstream uint32 }

// Marks returns those in use.
func (h *Host) Marks() Marks { return h.numbers.marks() }

// RouteTable is the routing table in use.
func (h *Host) RouteTable() int { return h.numbers.table }

// Holds reports whether SYNs are held; it is known once there is a guest.
func (h *Host) Holds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.holding.way < len(Inside{}.holdLines())
}

// Add lets a guest's packets come to sockets that are returned, which are the caller's. A guest with the same port makes
// room for it.
func (h *Host) Add(g Guest) (list []Socket, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.guests[g.Port]
	delete(h.guests, g.Port)
	made, list, err := h.openGuest(g)
	if err == nil {
		h.guests[g.Port] = made
		err = h.install()
	}
	if err != nil {
		for _, s := range list {
			unix.Close(s.FD)
		}
		delete(h.guests, g.Port)
		if before != nil {
			h.install() // without it
		}
		return nil, fmt.Errorf("add container at %s: %w", g.Port, err)
	}
	return list, nil
}

// Remove shuts the door for the guest at the port.
func (h *Host) Remove(port string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guests[port] == nil {
		return nil
	}
	delete(h.guests, port)
	if err := h.install(); err != nil {
		return fmt.Errorf("remove container at %s: %w", port, err)
	}
	return nil
}

// Refuse names the ports of the bridge from which nothing is to be taken.
func (h *Host) Refuse(ports []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ports = slices.Clone(ports)
	slices.Sort(ports)
	if slices.Equal(ports, h.unknown) {
		return nil
	}
	h.unknown = ports
	return h.install()
}

// Restore puts the rules back if somebody has removed some or added others to them, and reports whether that was so. It also
// has them follow the bridge, which changes its hardware address with its ports.
func (h *Host) Restore() (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found, err := findHost(h.cfg.Link)
	if err != nil {
		return false, err
	}
	whole, err := h.complete(found)
	switch {
	case err != nil:
		return false, err
	case whole && !h.cfg.Single && !slices.Equal(h.bridge, hardwareAddr(h.cfg.Link)):
		return false, h.install()
	case whole:
		return false, nil
	}
	if err := h.install(); err != nil {
		return true, err
	}
	if err := removeRoutes(found); err != nil {
		return true, err
	}
	if _, err := h.addRoutes(); err != nil {
		return true, err
	}
	return true, h.writeSysctls()
}

// complete reports whether all of the door is there, and nothing else in its tables.
func (h *Host) complete(f found) (bool, error) {
	want := 2
	if h.v6 {
		want = 4
	}
	if len(f.tables) != len(h.tables()) || len(f.rules)+len(f.routes) != want || h.sysctlsMoved() {
		return false, nil
	}
	now, err := h.listRulings()
	return slices.Equal(now, h.rulings), err
}

// Close takes everything away that was made, and restores what was changed.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := RemoveHost(h.cfg.Link)
	return err
}

// tables are those of the door by family.
func (h *Host) tables() []*nftables.Table {
	families := []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyBridge}
	if h.cfg.Single {
		families = families[:2]
	}
	var list []*nftables.Table
	for _, f := range families {
		list = append(list, &nftables.Table{Family: f, Name: TableName(h.cfg.Link)})
	}
	return list
}
