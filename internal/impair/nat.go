package impair

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// Bounds of a NAT.
const (
	firstPort = 20000
	lastPort  = 60000
)

// nat translates the source of what goes up, and the destination of what comes down, for TCP and UDP over IPv4. A port
// outside stands for one address and port inside, whomever it talks to (RFC 4787, endpoint-independent mapping), and lets
// in only what comes from where something went (address and port-dependent filtering): the strictest of the usual kind.
type nat struct {
	outside netip.Addr

	mu   sync.Mutex
	next uint16
	out  map[inner]*binding
	in   map[outer]*binding
}

type inner struct {
	protocol uint8
	at       netip.AddrPort
}

type outer struct {
	protocol uint8
	port     uint16
}

type binding struct {
	inner
	port uint16
	to   map[netip.AddrPort]bool
}

func newNAT(outside netip.Addr) *nat {
	return &nat{outside: outside, next: firstPort, out: map[inner]*binding{}, in: map[outer]*binding{}}
}

// translate rewrites a packet; false means that the NAT lets it pass nowhere.
func (n *nat) translate(d Direction, p packet) bool {
	ports := p.ports()
	if ports == nil || !p.four {
		return false
	}
	src := netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(ports))
	dst := netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(ports[2:]))
	n.mu.Lock()
	defer n.mu.Unlock()
	if d == Up {
		b := n.bind(inner{p.protocol, src})
		if b == nil {
			return false
		}
		b.to[dst] = true
		p.rewrite(p.raw[12:16], ports[:2], netip.AddrPortFrom(n.outside, b.port))
		return true
	}
	b := n.in[outer{p.protocol, dst.Port()}]
	if p.dst != n.outside || b == nil || !b.to[src] {
		return false
	}
	p.rewrite(p.raw[16:20], ports[2:], b.at)
	return true
}

// bind returns the port of an address inside; nil when none is left.
func (n *nat) bind(who inner) *binding {
	if b := n.out[who]; b != nil {
		return b
	}
	for range lastPort - firstPort {
		if n.next++; n.next > lastPort {
			n.next = firstPort + 1
		}
		at := outer{who.protocol, n.next}
		if n.in[at] == nil {
			b := &binding{inner: who, port: n.next, to: map[netip.AddrPort]bool{}}
			n.out[who], n.in[at] = b, b
			return b
		}
	}
	return nil
}

func (n *nat) rebind() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for who, b := range n.out {
		if who.protocol == protocolUDP {
			delete(n.out, who)
			delete(n.in, outer{who.protocol, b.port})
			count++
		}
	}
	return count
}
