package netstack

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
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
		send:        func(key datagramKey, p []byte) error { return s.sendUDP(key.dst, key.src, p) },
		unreachable: s.rejectUDP,
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

// sendUDP sends one datagram into the sandbox, in fragments when it is larger than the MTU. The error wraps EMSGSIZE for
// one that is larger than UDP allows and ENOBUFS or EAGAIN for one that the device has no room for.
func (s *Stack) sendUDP(from, to netip.AddrPort, p []byte) error {
	v4 := to.Addr().Is4()
	limit, ipHeader := maxUDP6, header.IPv6MinimumSize
	if v4 {
		limit, ipHeader = maxUDP4, header.IPv4MinimumSize
	}
	if len(p) > limit {
		return fmt.Errorf("send udp: %w", syscall.EMSGSIZE)
	}
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	size := header.UDPMinimumSize + len(p)
	var buf [header.IPv6MinimumSize + header.UDPMinimumSize]byte
	h := header.UDP(buf[ipHeader:][:header.UDPMinimumSize])
	h.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(size)})
	h.SetChecksum(udpChecksum(h, src, dst, p))

	if ipHeader+size > int(s.link.MTU()) {
		return s.sendTransport(from.Addr(), to.Addr(), udp.ProtocolNumber, h, p)
	}
	// Most datagrams fit, and go to the device without another copy.
	if v4 {
		ip := header.IPv4(buf[:ipHeader])
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(ipHeader + size),
			Flags:       header.IPv4FlagDontFragment, // so no ID is needed (RFC 6864 section 4.1)
			TTL:         defaultTTL,
			Protocol:    uint8(udp.ProtocolNumber),
			SrcAddr:     src,
			DstAddr:     dst,
		})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(buf[:ipHeader]).Encode(&header.IPv6Fields{
			PayloadLength:     uint16(size),
			TransportProtocol: udp.ProtocolNumber,
			HopLimit:          defaultTTL,
			SrcAddr:           src,
			DstAddr:           dst,
		})
	}
	return s.inject(networkProtocol(to.Addr()), buf[:ipHeader+header.UDPMinimumSize], p)
}

// udpChecksum is the checksum of a datagram whose header is complete but for it.
func udpChecksum(h header.UDP, src, dst tcpip.Address, p []byte) uint16 {
	sum := header.PseudoHeaderChecksum(udp.ProtocolNumber, src, dst, uint16(len(h)+len(p)))
	sum = ^h.CalculateChecksum(checksum.Combine(sum, checksum.Checksum(p, 0)))
	if sum == 0 {
		return 0xffff // 0 says that there is none (RFC 768)
	}
	return sum
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
