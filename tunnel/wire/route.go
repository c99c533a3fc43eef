package wire

import (
	"net/netip"
	"strings"
)

// Bounds of what a client advertises.
const (
	MaxRoutes = 256
	MaxPorts  = 16 // ranges of one route
)

// Route is something that a client says that it reaches: names or addresses, of which one is set. It is a hint for the choice
// between clients and gives no right: the client judges each flow.
type Route struct {
	// Suffix covers the name itself and all below it ("corp.example"); "." covers all names. It is in normal form.
	Suffix string

	// Prefix covers addresses; it is masked.
	Prefix netip.Prefix

	// Ports are those that the route is for; none stands for all.
	Ports []Ports
}

// Ports is a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// Covers says whether the route is for the port and either for the name or for the address. The more of a route stands for a
// name or an address the more specific it is: long is the count of labels or of bits, and 0 for what covers everything.
func (r Route) Covers(name string, to netip.AddrPort) (long int, ok bool) {
	if !r.port(to.Port()) {
		return 0, false
	}
	if r.Prefix.IsValid() {
		return r.Prefix.Bits(), r.Prefix.Contains(to.Addr().Unmap())
	}
	switch {
	case name == "" || r.Suffix == "":
		return 0, false
	case r.Suffix == ".":
		return 0, true
	case name == r.Suffix || strings.HasSuffix(name, "."+r.Suffix):
		return strings.Count(r.Suffix, ".") + 1, true
	}
	return 0, false
}

func (r Route) port(port uint16) bool {
	for _, p := range r.Ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return len(r.Ports) == 0
}

// What a route begins with.
const (
	routeSuffix = 0
	routePrefix = 1
)

// appendRoute appends what stands for names or addresses with its length, and the ranges of ports.
func appendRoute(b []byte, r Route) []byte {
	if r.Prefix.IsValid() {
		b = AppendVarint(b, routePrefix)
		addr := r.Prefix.Masked().Addr().AsSlice()
		b = append(AppendVarint(b, uint64(len(addr)+1)), addr...)
		b = append(b, byte(r.Prefix.Bits()))
	} else {
		b = AppendVarint(b, routeSuffix)
		b = append(AppendVarint(b, uint64(len(r.Suffix))), r.Suffix...)
	}
	for _, p := range r.Ports {
		b = AppendVarint(AppendVarint(b, uint64(p.First)), uint64(p.Last))
	}
	return b
}

// parseRoute returns false for a route of a kind that is not known.
func parseRoute(b []byte) (r Route, known bool, err error) {
	kind, n := ParseVarint(b)
	if n == 0 {
		return Route{}, false, malformed("an empty route")
	}
	b = b[n:]
	length, n := ParseVarint(b)
	if n == 0 || length > uint64(len(b)-n) {
		return Route{}, false, malformed("a route ends early")
	}
	what, b := b[n:n+int(length)], b[n+int(length):]
	switch kind {
	case routeSuffix:
		if len(what) == 0 || len(what) > MaxName {
			return Route{}, false, malformed("a suffix of %d octets", len(what))
		}
		r.Suffix = string(what)
	case routePrefix:
		if r.Prefix, err = parsePrefix(what); err != nil {
			return Route{}, false, err
		}
	default:
		return Route{}, false, nil
	}
	r.Ports, err = parsePorts(b)
	return r, err == nil, err
}

func parsePrefix(b []byte) (netip.Prefix, error) {
	if len(b) != 5 && len(b) != 17 {
		return netip.Prefix{}, malformed("a prefix of %d octets", len(b))
	}
	addr, _ := netip.AddrFromSlice(b[:len(b)-1])
	p := netip.PrefixFrom(addr, int(b[len(b)-1]))
	if !p.IsValid() || p != p.Masked() || addr.Is4In6() {
		return netip.Prefix{}, malformed("a prefix that is none")
	}
	return p, nil
}

func parsePorts(b []byte) ([]Ports, error) {
	var all []Ports
	for len(b) > 0 {
		first, n := ParseVarint(b)
		last, m := ParseVarint(b[n:])
		if n == 0 || m == 0 || first > last || last > 65535 || len(all) == MaxPorts {
			return nil, malformed("ports that are none")
		}
		all = append(all, Ports{uint16(first), uint16(last)})
		b = b[n+m:]
	}
	return all, nil
}
