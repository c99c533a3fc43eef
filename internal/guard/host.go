package guard

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// HostRefresh is how old the known set of host addresses may grow: an address that the host gains is guarded at most
// this much later.
const HostRefresh = 5 * time.Second

// HostAddrs returns the addresses of the host's interfaces, without zones and without loopback addresses (those have a
// class of their own), and the broadcast addresses of their IPv4 networks, where the host itself is among the listeners. An
// address that a cloud maps onto the host from outside is on no interface and not among them.
func HostAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue // point-to-point and exotic networks have no prefix; nothing can be dialled there
		}
		if addr := p.Addr().Unmap().WithZone(""); !addr.IsLoopback() {
			addrs = append(addrs, addr)
			if b, ok := broadcast(p); ok {
				addrs = append(addrs, b)
			}
		}
	}
	return addrs, nil
}

// broadcast returns the address of everybody in an IPv4 network (RFC 919): the last one, where it is not a host's
// (RFC 3021).
func broadcast(p netip.Prefix) (netip.Addr, bool) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Addr{}, false
	}
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b), true
}

// Host is the set of the host's own addresses, read again when it is older than [HostRefresh]. It is safe for
// concurrent use. When reading fails the last good set stays in force.
type Host struct {
	read func() ([]netip.Addr, error)
	now  func() time.Time

	mu       sync.Mutex
	addrs    []netip.Addr
	at       time.Time
	failures uint64
}

// NewHost reads the set once with read, normally [HostAddrs], and fails when that fails: without the set the guard
// would be open.
func NewHost(read func() ([]netip.Addr, error)) (*Host, error) {
	return newHost(read, time.Now)
}

func newHost(read func() ([]netip.Addr, error), now func() time.Time) (*Host, error) {
	addrs, err := read()
	if err != nil {
		return nil, fmt.Errorf("read host addresses: %w", err)
	}
	return &Host{read: read, now: now, addrs: addrs, at: now()}, nil
}

// Addrs returns the current set. The slice is shared: read it, do not change it.
func (h *Host) Addrs() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); now.Sub(h.at) >= HostRefresh {
		h.at = now
		addrs, err := h.read()
		if err != nil {
			h.failures++
			return h.addrs
		}
		h.addrs = addrs
	}
	return h.addrs
}

// Failures returns how often the set could not be read again.
func (h *Host) Failures() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures
}
