package netstack

import (
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/weir-dev/weir/flow"
)

// The largest payloads of a UDP datagram (RFC 768, RFC 8200 section 3 without jumbograms).
const (
	maxUDP4 = 65535 - header.IPv4MinimumSize - header.UDPMinimumSize
	maxUDP6 = 65535 - header.UDPMinimumSize
)

// defaultTTL is the TTL or hop limit of what the door sends by itself.
const defaultTTL = 64

// dnsPort is the port whose flows are questions and answers: they are idle sooner.
const dnsPort = 53

const (
	countUDPFlows     = "udp-flows"
	countUDPHalfOpen  = "drop-udp-half-open"
	countUDPQueue     = "drop-udp-queue"
	countUDPEvicted   = "udp-evicted"
	countUDPRefused   = "drop-udp-refused-again"
	countUDPMalformed = "drop-udp-malformed"
	countUDPMulticast = "drop-udp-multicast"
	countUDPSource    = "drop-udp-source"
)

// installUDP hands UDP flows to h. It sees every datagram that no socket on the gateway (ListenPacket) takes. gVisor has
// reassembled it by then; it has no endpoint and no goroutine for such flows.
func (s *Stack) installUDP(h flow.Handler) {
	l := s.cfg.Limits
	d := &udpDoor{stack: s, dhcp: newDHCPDoor(s)}
	d.table = newDatagramTable(datagramConfig{
		network:     "udp",
		handler:     h,
		ctx:         s.ctx,
		maxFlows:    l.UDPFlows,
		maxPending:  l.HalfOpenUDP,
		idle:        udpIdle(l),
		send:        func(key datagramKey, datagrams [][]byte) (int, error) { return s.sendUDPs(key.dst, key.src, datagrams) },
		unreachable: s.rejectUDP,
		tooBig:      s.sendTooBig,
		spawn:       s.spawn,
		counters:    s.counters,
		names: datagramCounters{
			flows:   countUDPFlows,
			pending: countUDPHalfOpen,
			queue:   countUDPQueue,
			evicted: countUDPEvicted,
			refused: countUDPRefused,
		},
	})
	s.link.burst = newUDPBurst(d.table)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, d.receive)
}

// udpIdle is how long a flow to dst may be quiet.
func udpIdle(l Limits) func(dst netip.AddrPort, answered bool) time.Duration {
	return func(dst netip.AddrPort, answered bool) time.Duration {
		switch {
		case dst.Port() == dnsPort:
			return l.UDPIdleDNS
		case answered:
			return l.UDPIdle
		}
		return l.UDPUnanswered
	}
}

// udpDoor is what the sandbox's datagrams pass.
type udpDoor struct {
	stack *Stack
	table *datagramTable
	dhcp  *dhcpDoor
	quote []byte // scratch space of receive
}

// receive is called on the read loop with one datagram. It always takes it.
func (d *udpDoor) receive(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	s := d.stack
	key := datagramKey{
		src: addrPort(id.RemoteAddress, id.RemotePort),
		dst: addrPort(id.LocalAddress, id.LocalPort),
	}
	switch {
	case !validUDP(pkt):
		s.count(countUDPMalformed)
	case d.dhcp.wants(key):
		d.dhcp.receive(pkt)
	case !s.isGuest(key.src.Addr()):
		s.count(countUDPSource)
	case !isUnicast(key.dst.Addr()):
		s.count(countUDPMulticast)
	default:
		payload := pkt.Data().AsRange().ToView()
		if payload == nil {
			payload = buffer.NewView(0) // an empty datagram is one, too
		}
		s.link.burst.flush() // what came before it goes before it
		if d.keepTooLong(key, pkt, payload.AsSlice()) {
			payload.Release()
			break
		}
		d.quote = appendQuote(d.quote[:0], pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice(), payload.AsSlice())
		d.table.deliver(key, payload, d.quote)
	}
	return true
}

// validUDP checks a datagram's length and checksum.
func validUDP(pkt *stack.PacketBuffer) bool {
	ip := pkt.Network()
	length, sum := header.UDPValid(
		header.UDP(pkt.TransportHeader().Slice()),
		func() uint16 { return pkt.Data().Checksum() },
		uint16(pkt.Data().Size()),
		pkt.NetworkProtocolNumber,
		ip.SourceAddress(),
		ip.DestinationAddress(),
		pkt.RXChecksumValidated)
	return length && sum
}

// isGuest says whether addr is the sandbox's own.
func (s *Stack) isGuest(addr netip.Addr) bool { return addr == s.cfg.Addr4 || addr == s.cfg.Addr6 }

// isUnicast says whether addr can be the one end of a flow. Subnet broadcasts are not known here: the sandbox has no
// subnet.
func isUnicast(addr netip.Addr) bool {
	return !addr.IsMulticast() && !addr.IsUnspecified() && addr != broadcast4
}

// appendQuote appends the first maxQuote bytes of a packet to b, for an ICMP error about it. The parts are its network
// header, its transport header and what follows; nothing is appended when the headers alone are too long.
func appendQuote(b, network, transport, rest []byte) []byte {
	room := maxQuote - len(network) - len(transport)
	if room < 0 {
		return b
	}
	b = append(append(b, network...), transport...)
	return append(b, rest[:min(len(rest), room)]...)
}

// rejectUDP refuses the datagram that began with quote.
func (s *Stack) rejectUDP(reason flow.Reason, quote []byte) {
	switch reason {
	case flow.HostUnreachable:
		s.sendUnreachable(unreachableHost, quote)
	case flow.NetUnreachable:
		s.sendUnreachable(unreachableNet, quote)
	default:
		s.sendUnreachable(unreachablePort, quote)
	}
}

// sendTransport sends a packet, whose transport header is complete, from any address by way of gVisor, which cuts it in
// fragments where that is needed.
func (s *Stack) sendTransport(from, to netip.Addr, proto tcpip.TransportProtocolNumber, hdr, payload []byte) error {
	r, terr := s.stack.FindRoute(nicID, tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice()),
		networkProtocol(to), false)
	if terr != nil {
		return fmt.Errorf("find route: %w", errnoOf(terr))
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()) + len(hdr),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	copy(pkt.TransportHeader().Push(len(hdr)), hdr)
	pkt.TransportProtocolNumber = proto
	if terr := r.WritePacket(stack.NetworkHeaderParams{Protocol: proto, TTL: defaultTTL}, pkt); terr != nil {
		return fmt.Errorf("write packet: %w", errnoOf(terr))
	}
	return nil
}
