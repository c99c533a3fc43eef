//go:build linux

package container

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// maxPorts bounds the ports of a bridge; the kernel's own bound is 1024 (BR_MAX_PORTS).
const maxPorts = 1024

// dumpTries is how often a list is asked for again that changed while it was read.
const dumpTries = 3

// bridge returns the index of the bridge.
func (f *Finder) bridge(name string) (int, error) {
	link, err := f.route.LinkByName(name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return 0, fmt.Errorf("find %q: %w", name, ErrNoBridge)
	case err != nil:
		return 0, fmt.Errorf("find %q: %w", name, err)
	case link.Type() != "bridge":
		return 0, fmt.Errorf("find %q: it is a %s: %w", name, link.Type(), ErrNoBridge)
	}
	return link.Attrs().Index, nil
}

// ports returns the ports of the bridge, by index.
func (f *Finder) ports(bridge int) ([]Port, error) {
	links, err := f.route.LinkList()
	for try := 1; errors.Is(err, netlink.ErrDumpInterrupted) && try < dumpTries; try++ {
		links, err = f.route.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ports []Port
	for _, l := range links {
		if l.Attrs().MasterIndex != bridge {
			continue
		}
		if len(ports) == maxPorts {
			return nil, fmt.Errorf("list ports: more than %d: %w", maxPorts, ErrTooMany)
		}
		ports = append(ports, portOf(l))
	}
	slices.SortFunc(ports, func(a, b Port) int { return a.Index - b.Index })
	return ports, nil
}

// port returns the port as it is now; [ErrGone] if there is none.
func (f *Finder) port(index int) (Port, error) {
	link, err := f.route.LinkByIndex(index)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return Port{}, ErrGone
	case err != nil:
		return Port{}, fmt.Errorf("look at link %d: %w", index, err)
	}
	return portOf(link), nil
}

func portOf(l netlink.Link) Port {
	a := l.Attrs()
	p := Port{Index: a.Index, Name: a.Name, Bridge: a.MasterIndex, NSID: -1}
	if l.Type() == "veth" {
		p.Peer, p.NSID = a.ParentIndex, a.NetNsID
	}
	return p
}
