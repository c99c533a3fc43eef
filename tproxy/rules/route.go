//go:build linux

package rules

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route gives lo the sandbox's addresses and makes every other address local.
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
		flags := 0
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f.own.Is6() {
			// The prefix route of an address on lo is one that refuses, and the kernel puts the address to use in the
			// background: what came meanwhile would meet it.
			flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := h.AddrAdd(lo, &netlink.Addr{IPNet: network(whole(f.own)), Flags: flags}); err != nil {
			return fmt.Errorf("add address %s: %w", f.own, err)
		}
		local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network(all), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Table: unix.RT_TABLE_MAIN, Src: f.own.AsSlice()}
		if err := h.RouteAdd(local); err != nil {
			return fmt.Errorf("make all addresses local: %w", err)
		}
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
