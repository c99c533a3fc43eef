//go:build linux

package container

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Finder looks at the ports of bridges in the network namespace that it was made in. Make it with [New]; its methods may be
// called by many goroutines at once, one at a time does the work.
type Finder struct {
	root    string // where the engines' files are found: "/", but for tests
	waiting waiting

	mu     sync.Mutex
	route  *netlink.Handle
	home   *os.File // the namespace
	known  map[identityKey]identity
	owners map[int]map[netip.Addr]ownerKey // by bridge
}

// identityKey is a process that was found to be the first of a namespace.
type identityKey struct {
	cookie  uint64
	pid     int
	started uint64
}

// ownerKey is who has an address.
type ownerKey struct {
	port   int
	cookie uint64
}

// New makes a Finder for the calling thread's network namespace. Close it.
func New() (*Finder, error) { return newFinder("/") }

func newFinder(root string) (*Finder, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	route, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		home.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Finder{root: root, waiting: make(waiting, maxWaiting), route: route, home: home, known: map[identityKey]identity{}, owners: map[int]map[netip.Addr]ownerKey{}}, nil
}

// Close gives back what the Finder holds.
func (f *Finder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.route.Close()
	return f.home.Close()
}

// List returns who is behind each port of the bridge, by port index. A port that nobody can be named for is among them, with
// its Err. The error is [ErrNoBridge], or says that the kernel did not answer or that there are more than [maxPorts] ports.
func (f *Finder) List(bridge string) ([]Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	index, err := f.bridge(bridge)
	if err != nil {
		return nil, err
	}
	ports, err := f.ports(index)
	if err != nil {
		return nil, err
	}
	spaces, err := f.namespaces(ports)
	if err != nil {
		return nil, err
	}
	list := make([]Container, 0, len(ports))
	for _, p := range ports {
		list = append(list, f.behind(p, spaces[p.NSID]))
	}
	f.settleAddresses(list, index)
	return list, nil
}

// behind says who is at the other end of the port, in the namespace s (nil if that was not found).
func (f *Finder) behind(p Port, s *space) Container {
	c := Container{Port: p}
	switch {
	case p.Peer == 0:
		c.Err = fmt.Errorf("%w: it is no veth", ErrUnknown)
		return c
	case p.NSID < 0:
		c.Err = fmt.Errorf("%w: its other end is on the host", ErrUnknown)
		return c
	case s == nil:
		c.Err = fmt.Errorf("%w: no process and no mount shows namespace %d", ErrUnknown, p.NSID)
		return c
	}
	ns, err := f.open(s)
	if err != nil {
		return Container{Port: p, Err: err}
	}
	defer ns.Close()
	end, err := f.lookInside(ns, p.Peer)
	if err != nil {
		return Container{Port: p, Err: err}
	}
	if end.parent != p.Index {
		return Container{Port: p, Err: fmt.Errorf("%w: its other end belongs to another link", ErrGone)}
	}
	c.Interface, c.MAC, c.Addresses, c.Cookie = end.name, end.mac, end.addresses, end.cookie
	if err := f.identify(&c, s); err != nil {
		return Container{Port: p, Err: err}
	}
	if now, err := f.port(p.Index); err != nil || now != p {
		return Container{Port: p, Err: fmt.Errorf("%w: the port has changed", ErrGone)}
	}
	return c
}

// Check says whether c is still who is behind its port (who is in its namespace, if it has none): nil, or an error that is [ErrGone] if another one, or nobody, is
// there now. It costs three questions to the kernel.
func (f *Finder) Check(c Container) error {
	if c.Err != nil {
		return c.Err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Port.Index != 0 {
		p, err := f.port(c.Port.Index)
		switch {
		case err != nil && !errors.Is(err, ErrGone):
			return err
		case err != nil || p != c.Port:
			return fmt.Errorf("check port %q: %w", c.Port.Name, ErrGone)
		}
	}
	if err := f.stillThere(c); err != nil {
		return fmt.Errorf("check %v: %w", c, err)
	}
	return nil
}

// Routed returns those of the addresses that are on the link by the host's own routes. A container may give itself any: that
// of the host, or of a server that the host talks to.
func (f *Finder) Routed(link int, addrs []netip.Addr) (list []netip.Addr) {
	for _, a := range addrs {
		if a.IsLinkLocalUnicast() {
			list = append(list, a)
			continue
		}
		routes, err := f.route.RouteGet(a.AsSlice())
		if err == nil && len(routes) == 1 && routes[0].LinkIndex == link && routes[0].Type == unix.RTN_UNICAST && routes[0].Gw == nil {
			list = append(list, a)
		}
	}
	return list
}

// settleAddresses gives each address to the port that had it first; of two that come at once neither gets it.
func (f *Finder) settleAddresses(list []Container, bridge int) {
	for i := range list {
		had := len(list[i].Addresses)
		if list[i].Addresses = f.Routed(bridge, list[i].Addresses); had > 0 && len(list[i].Addresses) == 0 {
			list[i] = Container{Port: list[i].Port, Err: ErrElsewhere}
		}
	}
	claims := map[netip.Addr]int{}
	for _, c := range list {
		for _, a := range c.Addresses {
			claims[a]++
		}
	}
	owners := map[netip.Addr]ownerKey{}
	for i := range list {
		c := &list[i]
		me := ownerKey{c.Port.Index, c.Cookie}
		had := len(c.Addresses)
		kept := c.Addresses[:0]
		for _, a := range c.Addresses {
			if a.IsLinkLocalUnicast() || claims[a] == 1 || f.owners[bridge][a] == me {
				kept = append(kept, a)
				owners[a] = me
			}
		}
		if c.Addresses = kept; had > 0 && len(kept) == 0 {
			*c = Container{Port: c.Port, Err: ErrContested}
		}
	}
	f.owners[bridge] = owners
}
