package websocket

import "net/netip"

// quota counts what is held in all and by each host, up to bounds. It has no lock of its own.
type quota struct {
	total, perHost int
	held           int
	by             map[netip.Prefix]int
}

func newQuota(total, perHost int) quota {
	return quota{total: total, perHost: perHost, by: map[netip.Prefix]int{}}
}

// host is what counts as one: an IPv4 address, or the /64 that an IPv6 host has to itself.
func host(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}

// take takes a place and reports whether there was one.
func (q *quota) take(a netip.Addr) bool {
	h := host(a)
	if q.held >= q.total || q.by[h] >= q.perHost {
		return false
	}
	q.held++
	q.by[h]++
	return true
}

// give gives a place back.
func (q *quota) give(a netip.Addr) {
	h := host(a)
	q.held--
	if q.by[h]--; q.by[h] == 0 {
		delete(q.by, h)
	}
}
