//go:build linux

package rules

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks rules and routes as weir's (rtnetlink(7), rtm_protocol): it is a number that nobody has.
const routeProtocol = 177

// Where the search for free numbers begins.
const (
	firstPriority = 77
	firstTable    = 1077
	lastNumber    = 32000
)

// markBases are the values for the top octet of the mark, whose lowest two bits are ours. Others use the lower octets.
var markBases = []uint32{0x74, 0x78, 0x64, 0x68, 0x54, 0x58, 0xb4, 0xb8}

// numbers are those that the door has taken.
type numbers struct {
	base            uint32
	table, priority int
}

func (n numbers) marks() Marks {
	return Marks{Mask: 0xff << 24, Seen: n.base << 24, Door: (n.base + 1) << 24, Reply: (n.base + 2) << 24, Upstream: (n.base + 3) << 24}
}

// choose takes numbers that nobody uses; what belongs to the link's door from before does not count.
func (n *numbers) choose(link string) error {
	priorities, tables := map[int]bool{}, map[int]bool{}
	var others []netlink.Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil && !noFamily(err) {
			return fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range rules {
			if !ours(r, link) {
				priorities[r.Priority], tables[r.Table] = true, true
			}
			if r.Protocol != routeProtocol {
				others = append(others, r)
			}
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !noFamily(err) {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			tables[r.Table] = true
		}
	}
	for _, base := range markBases {
		if n.base = base; !marked(n.marks(), others) {
			break
		}
		n.base = 0
	}
	for n.priority = firstPriority; priorities[n.priority]; n.priority++ {
	}
	for n.table = firstTable; tables[n.table]; n.table++ {
	}
	if n.base == 0 || n.priority > lastNumber || n.table > lastNumber {
		return ErrNoNumbers
	}
	return nil
}

// marked reports whether a rule of others takes one of our marks for something else than no mark.
func marked(m Marks, others []netlink.Rule) bool {
	for _, r := range others {
		if r.Mark == 0 && r.Mask == nil {
			continue
		}
		mask := ^uint32(0)
		if r.Mask != nil {
			mask = *r.Mask
		}
		for _, v := range []uint32{m.Seen, m.Door, m.Reply, m.Upstream} {
			if (v&mask == r.Mark) != (r.Mark == 0) {
				return true
			}
		}
	}
	return false
}

// ours reports whether it is the rule of the link's door.
func ours(r netlink.Rule, link string) bool { return r.Protocol == routeProtocol && r.IifName == link }

func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// addRoutes has the packets of the door delivered here, whatever their destination. It reports whether there is IPv6.
func (h *Host) addRoutes() (v6 bool, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return false, fmt.Errorf("find lo: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		m := h.numbers.marks()
		r := netlink.NewRule()
		r.Family, r.Table, r.Priority, r.Protocol = family, h.numbers.table, h.numbers.priority, routeProtocol
		r.Mark, r.Mask, r.IifName = m.Door, &m.Mask, h.cfg.Link
		err := netlink.RuleAdd(r)
		if family == netlink.FAMILY_V6 && noFamily(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("add ip rule %d: %w", r.Priority, err)
		}
		all := network(everything(family == netlink.FAMILY_V6))
		local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Table: h.numbers.table, Protocol: routeProtocol}
		if err := netlink.RouteAdd(local); err != nil {
			return false, fmt.Errorf("add route to table %d: %w", local.Table, err)
		}
	}
	return true, nil
}
