package client

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/tunnel/session"
)

// path is what is known of the machine's way to the edge.
type path struct {
	wall   time.Time  // at the last look
	mono   time.Time  // the same, by the clock that may stand still in sleep
	source netip.Addr // from which packets go to the edge; invalid when unknown
	moving bool
}

// anywhere is an address that nobody has (RFC 5737): what is sent there would go by the default route.
var anywhere = netip.MustParseAddrPort("192.0.2.1:443")

// edgeAddr is where packets to the edge go, as far as it is known.
func (k *keeper) edgeAddr() netip.AddrPort {
	if k.cur != nil && k.cur.Way().addr.IsValid() {
		return k.cur.Way().addr
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.found.IsValid() {
		return k.found
	}
	return anywhere
}

// checkPath finds out whether the machine has slept or has changed its network, and acts on it.
func (k *keeper) checkPath() {
	p := &k.path
	wall, mono := k.parts.wall(), time.Now()
	slept := wall.Sub(p.wall)-min(mono.Sub(p.mono), tick) > jump
	p.wall, p.mono = wall, mono
	source := k.parts.source(k.edgeAddr())
	changed := source.IsValid() && p.source.IsValid() && source != p.source
	back := source.IsValid() && !p.source.IsValid() && k.cur == nil // there was no network, and now there is
	if source.IsValid() || k.cur == nil {
		p.source = source
	}
	if slept || changed || back {
		k.moved()
	}
}

// moved is what a change of network or a sleep does: it moves a session on QUIC to a new socket, has everything else try anew
// at once, and forgets what was learnt of the old network.
func (k *keeper) moved() {
	k.small = false
	switch {
	case k.cur == nil:
		if k.stays == nil && !k.draining {
			k.backoff.reset()
			k.again(anyWay)
		}
	case k.draining:
	case k.cur.Way().transport != session.QUIC:
		k.again(anyWay)
	case !k.path.moving:
		k.move(k.cur)
	}
}

// move moves c to a new socket; when that fails there is another race, and c lives until it is won or c's own end.
func (k *keeper) move(c carrier) {
	k.path.moving = true
	k.beside(func(ctx context.Context) func() {
		patience, cancel := context.WithTimeout(ctx, movePatience)
		defer cancel()
		err := c.Migrate(patience)
		return func() {
			k.path.moving = false
			if k.cur != c {
				return
			}
			if err == nil {
				k.Supervisor.moves.Add(1)
				k.reportConnected("")
				return
			}
			k.lastSeen = err
			k.reportConnected("the network has changed and the session cannot follow: " + err.Error())
			k.again(anyWay)
		}
	})
}

// sourceFor asks the routing table which address packets to addr would leave from. No packet is sent.
func sourceFor(addr netip.AddrPort) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// sourceLeadsHere reports whether a packet to addr would come from that very address, or from the loopback: then it goes to
// this machine.
func sourceLeadsHere(addr netip.Addr) bool {
	source := sourceFor(netip.AddrPortFrom(addr, anywhere.Port()))
	return source == addr || source.IsLoopback()
}
