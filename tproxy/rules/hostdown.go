//go:build linux

package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// found is what there is of a door on this host.
type found struct {
	tables  []*nftables.Table
	rules   []netlink.Rule
	routes  []netlink.Route
	sysctls []sysctl // what they were before
}

func (f found) empty() bool { return len(f.tables)+len(f.rules)+len(f.routes) == 0 }

// HostLinks are the links that have a door, or what is left of one.
func HostLinks() ([]string, error) {
	tables, rules, err := listHost()
	if err != nil {
		return nil, err
	}
	var links []string
	for _, t := range tables {
		links = append(links, strings.TrimPrefix(t.Name, tablePrefix))
	}
	for _, r := range rules {
		links = append(links, r.IifName)
	}
	slices.Sort(links)
	return slices.Compact(links), nil
}

// listHost lists the tables and rules of all doors.
func listHost() (tables []*nftables.Table, rules []netlink.Rule, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	all, err := conn.ListTables()
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables tables: %w", told(err))
	}
	for _, t := range all {
		if strings.HasPrefix(t.Name, tablePrefix) {
			tables = append(tables, t)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RuleList(family)
		if err != nil && !noFamily(err) {
			return nil, nil, fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range list {
			if r.Protocol == routeProtocol && r.IifName != "" {
				rules = append(rules, r)
			}
		}
	}
	return tables, rules, nil
}

// findHost finds what belongs to the link's door.
func findHost(link string) (f found, err error) {
	tables, rules, err := listHost()
	if err != nil {
		return f, err
	}
	for _, t := range tables {
		if t.Name == TableName(link) {
			f.tables = append(f.tables, t)
		}
	}
	others := map[int]bool{} // tables that doors of other links use
	for _, r := range rules {
		if r.IifName == link {
			f.rules = append(f.rules, r)
		} else {
			others[r.Table] = true
		}
	}
	// A rule comes before its route, so what no other door's rule leads to is this one's, or nobody's any more.
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !noFamily(err) {
			return f, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Protocol == routeProtocol && r.Type == unix.RTN_LOCAL && !others[r.Table] {
				f.routes = append(f.routes, r)
			}
		}
	}
	f.sysctls, err = readRecords(tables)
	return f, err
}

// RemoveHost takes the link's door away, whoever has left it, and says what it removed, a line each. A second call finds
// nothing and removes nothing.
func RemoveHost(link string) (removed []string, err error) {
	f, err := findHost(link)
	if err != nil {
		return nil, err
	}
	if len(f.tables) > 0 {
		restored, err := f.restoreSysctls(link)
		removed = append(removed, restored...)
		if err != nil {
			return removed, err
		}
	}
	for _, r := range f.routes {
		removed = append(removed, fmt.Sprintf("%s route local default in table %d", familyName(r.Family), r.Table))
	}
	for _, r := range f.rules {
		removed = append(removed, fmt.Sprintf("%s rule %d: iif %s lookup %d", familyName(r.Family), r.Priority, r.IifName, r.Table))
	}
	if err := removeRoutes(f); err != nil {
		return nil, err
	}
	if len(f.tables) == 0 {
		return removed, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range f.tables {
		conn.DelTable(t)
		removed = append(removed, fmt.Sprintf("nftables table %s %s", tableFamily(t.Family), t.Name))
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("remove nftables tables: %w", told(err))
	}
	return removed, nil
}

// removeRoutes removes the routes first: they are found by the rules.
func removeRoutes(f found) error {
	for _, r := range f.routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route of table %d: %w", r.Table, err)
		}
	}
	for _, r := range f.rules {
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove ip rule %d: %w", r.Priority, err)
		}
	}
	return nil
}

func familyName(family int) string {
	if family == netlink.FAMILY_V6 {
		return "ipv6"
	}
	return "ipv4"
}

func tableFamily(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return fmt.Sprintf("family %d", f)
}
