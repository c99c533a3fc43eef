//go:build linux

package rules

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route makes every address local that the door carries packets to, and gives lo the sandbox's own where no link has them.
func (c Inside) route() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, f := range c.families() {
		table := unix.RT_TABLE_MAIN
		if c.Beside {
			table = besideTable
			err = protocolRules(h, f.own)
		} else {
			err = addAddress(h, lo, f.own)
		}
		if err != nil {
			return err
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f.own.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network(all), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Table: table, Src: f.own.AsSlice()}
		if err := h.RouteAdd(local); err != nil {
			return fmt.Errorf("make all addresses local: %w", err)
		}
	}
	return nil
}

// addAddress gives lo the sandbox's address.
func addAddress(h *netlink.Handle, lo netlink.Link, own netip.Addr) error {
	flags := 0
	if own.Is6() {
		// The prefix route of an address on lo is one that refuses, and the kernel puts the address to use in the
		// background: what came meanwhile would meet it.
		flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	if err := h.AddrAdd(lo, &netlink.Addr{IPNet: network(whole(own)), Flags: flags}); err != nil {
		return fmt.Errorf("add address %s: %w", own, err)
	}
	return nil
}

// besideTable is the routing table of TCP and UDP where a link carries the rest.
const besideTable = 1077

// protocolRules send TCP and UDP to that table.
func protocolRules(h *netlink.Handle, own netip.Addr) error {
	family := netlink.FAMILY_V4
	if own.Is6() {
		family = netlink.FAMILY_V6
	}
	for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		r := netlink.NewRule()
		r.Family, r.Table, r.IPProto, r.Priority = family, besideTable, protocol, besideTable
		if err := h.RuleAdd(r); err != nil {
			return fmt.Errorf("add rule for protocol %d: %w", protocol, err)
		}
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
