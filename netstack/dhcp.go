package netstack

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	dhcpServerPort = 67

	// dhcpRate and dhcpBurst bound the requests that are looked at, a second. A client needs two in an hour.
	dhcpRate  = 5
	dhcpBurst = 10

	// maxDHCP is the largest request in bytes; RFC 2131 section 2 has clients stay below 576.
	maxDHCP = 1472
)

const (
	countDHCPRequests = "dhcp-requests"
	countDHCPRate     = "drop-dhcp-rate"
	countDHCPInvalid  = "drop-dhcp-invalid"
)

// dhcpDoor gives guests that ask for it the address that is theirs anyway (RFC 2131). It only lets requests through that
// the server behind it can answer with that one lease, and no more than dhcpRate a second; the server is made with the
// first of them, and a sandbox that is configured statically never pays for it.
type dhcpDoor struct {
	stack  *Stack
	rate   *rate.Limiter
	server *dhcpServer
	failed bool
}

func newDHCPDoor(s *Stack) *dhcpDoor {
	return &dhcpDoor{stack: s, rate: rate.NewLimiter(dhcpRate, dhcpBurst)}
}

// wants says whether a datagram is for the DHCP server.
func (d *dhcpDoor) wants(key datagramKey) bool {
	dst := key.dst.Addr()
	return key.dst.Port() == dhcpServerPort && (dst == d.stack.cfg.Gateway4 || dst == broadcast4)
}

// receive is called on the read loop with a DHCP datagram.
func (d *dhcpDoor) receive(pkt *stack.PacketBuffer) {
	s := d.stack
	if !d.rate.AllowN(time.Now(), 1) {
		s.count(countDHCPRate)
		return
	}
	s.count(countDHCPRequests)
	if pkt.Data().Size() > maxDHCP {
		s.count(countDHCPInvalid)
		return
	}
	request, err := d.parse(pkt.Data().AsRange().ToSlice())
	if err != nil {
		s.count(countDHCPInvalid)
		s.cfg.Log.WithError(err).Debug("dhcp request dropped")
		return
	}
	if !d.confirms(request) {
		d.refuse(request)
		return
	}
	if d.server == nil && !d.failed {
		d.server, err = newDHCPServer(s)
		if err != nil {
			d.failed = true
			s.cfg.Log.WithError(err).Warn("guests get no dhcp lease")
		}
	}
	if d.server != nil {
		d.server.receive(pkt)
	}
}

// parse returns the request in b if it is one that the server can answer: a DISCOVER or REQUEST of the guest's own
// hardware address, straight from it, and not meant for another server.
func (d *dhcpDoor) parse(b []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("parse dhcp: %w", err)
	}
	other := m.ServerIdentifier()
	switch {
	case m.OpCode != dhcpv4.OpcodeBootRequest:
		return nil, fmt.Errorf("parse dhcp: %s is no request", m.OpCode)
	case m.MessageType() != dhcpv4.MessageTypeDiscover && m.MessageType() != dhcpv4.MessageTypeRequest:
		return nil, fmt.Errorf("parse dhcp: message type %d", m.MessageType())
	case !slices.Equal(m.ClientHWAddr, d.stack.cfg.GuestMAC):
		return nil, fmt.Errorf("parse dhcp: for another hardware address %x", []byte(m.ClientHWAddr))
	case !m.GatewayIPAddr.IsUnspecified():
		return nil, fmt.Errorf("parse dhcp: by way of a relay %q", m.GatewayIPAddr)
	case other != nil && !other.Equal(d.gateway()):
		return nil, fmt.Errorf("parse dhcp: for another server %q", other)
	}
	return m, nil
}

func (d *dhcpDoor) gateway() net.IP { return d.stack.cfg.Gateway4.AsSlice() }

// confirms says whether a request is for the guest's address or for any.
func (d *dhcpDoor) confirms(m *dhcpv4.DHCPv4) bool {
	if m.MessageType() != dhcpv4.MessageTypeRequest {
		return true
	}
	for _, ip := range []net.IP{m.RequestedIPAddress(), m.ClientIPAddr} {
		if ip != nil && !ip.IsUnspecified() && !ip.Equal(d.stack.cfg.Addr4.AsSlice()) {
			return false
		}
	}
	return true
}

// refuse tells a client that the address it remembers is not its own here (RFC 2131 section 4.3.2).
func (d *dhcpDoor) refuse(request *dhcpv4.DHCPv4) {
	nak, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.gateway())))
	if err == nil {
		err = d.stack.sendDHCP(netip.AddrPortFrom(broadcast4, dhcpv4.ClientPort), nak)
	}
	if err != nil {
		d.stack.cfg.Log.WithError(err).Debug("dhcp refusal not sent")
	}
}

// sendDHCP sends a reply into the sandbox.
func (s *Stack) sendDHCP(to netip.AddrPort, m *dhcpv4.DHCPv4) error {
	return s.sendUDP(netip.AddrPortFrom(s.cfg.Gateway4, dhcpServerPort), to, m.ToBytes())
}

// broadcast4 is the limited broadcast address (RFC 919 section 7).
var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dhcpSubnet is the smallest subnet in which addr and gateway are both hosts.
func dhcpSubnet(addr, gateway netip.Addr) netip.Prefix {
	for bits := 30; bits > 0; bits-- {
		p := netip.PrefixFrom(addr, bits).Masked()
		if p.Contains(gateway) && !isEdge(p, addr) && !isEdge(p, gateway) {
			return p
		}
	}
	return netip.PrefixFrom(addr, 0).Masked()
}

// isEdge says whether addr is the first or the last of p: its network or broadcast address.
func isEdge(p netip.Prefix, addr netip.Addr) bool {
	return !p.Contains(addr.Prev()) || !p.Contains(addr.Next())
}
