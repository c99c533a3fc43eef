package netstack

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"

	"github.com/weir-dev/weir/flow"
)

const (
	// echoRate and echoBurst bound the echo requests of a sandbox that become flows or reach one, a second.
	echoRate  = 100
	echoBurst = 50

	// maxEcho is the largest echo message in bytes, header included; more is not needed to see who is there.
	maxEcho = 8192

	// maxHalfOpenICMP is how many echo flows may wait for a verdict at once.
	maxHalfOpenICMP = 32
)

const (
	countICMPFlows     = "icmp-flows"
	countICMPHalfOpen  = "drop-icmp-half-open"
	countICMPQueue     = "drop-icmp-queue"
	countICMPEvicted   = "icmp-evicted"
	countICMPRefused   = "drop-icmp-refused-again"
	countICMPMalformed = "drop-icmp-malformed"
	countICMPMulticast = "drop-icmp-multicast"
	countICMPSource    = "drop-icmp-source"
	countICMPType      = "drop-icmp-type"
	countICMPRate      = "drop-icmp-rate"
	countICMPSize      = "drop-icmp-size"
)

// icmpDoor is what the sandbox's echo requests pass. Requests to the gateway itself never get here: gVisor answers them.
// gVisor's own answers for everybody else, which promiscuous mode would make it send, are suppressed by handling them.
type icmpDoor struct {
	stack *Stack
	table *datagramTable
	rate  *rate.Limiter
	quote []byte // scratch space of receive
}

// installICMP hands ICMP flows to h: one for each destination and identifier.
func (s *Stack) installICMP(h flow.Handler) {
	l := s.cfg.Limits
	d := &icmpDoor{stack: s, rate: rate.NewLimiter(echoRate, echoBurst)}
	d.table = newDatagramTable(datagramConfig{
		network:    "icmp",
		handler:    h,
		ctx:        s.ctx,
		maxFlows:   l.ICMPFlows,
		maxPending: maxHalfOpenICMP,
		idle:       func(netip.AddrPort, bool) time.Duration { return l.ICMPIdle },
		send: func(key datagramKey, datagrams [][]byte) (int, error) {
			for i, p := range datagrams {
				if err := s.sendEcho(key, p); err != nil && !noRoom(err) {
					return i, err
				}
			}
			return len(datagrams), nil
		},
		unreachable: s.rejectICMP,
		spawn:       s.spawn,
		counters:    s.counters,
		names: datagramCounters{
			flows:   countICMPFlows,
			pending: countICMPHalfOpen,
			queue:   countICMPQueue,
			evicted: countICMPEvicted,
			refused: countICMPRefused,
		},
	})
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, d.receive)
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, d.receive)
}

// receive is called on the read loop with an echo message; other types stay within gVisor. It reports false to have
// gVisor answer for the gateway.
func (d *icmpDoor) receive(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	s := d.stack
	src, dst := addrPort(id.RemoteAddress, 0).Addr(), addrPort(id.LocalAddress, 0).Addr()
	switch {
	case dst == s.cfg.Gateway4 || dst == s.cfg.Gateway6:
		return false
	case !s.isGuest(src):
		s.count(countICMPSource)
		return true
	case !isUnicast(dst):
		s.count(countICMPMulticast)
		return true
	case len(pkt.TransportHeader().Slice())+pkt.Data().Size() > maxEcho:
		s.count(countICMPSize)
		return true
	}
	message := stack.PayloadSince(pkt.TransportHeader())
	request, valid := parseEchoRequest(message.AsSlice(), dst.Is4())
	switch {
	case !valid:
		s.count(countICMPMalformed)
	case !request:
		s.count(countICMPType)
	case !d.rate.AllowN(time.Now(), 1):
		s.count(countICMPRate)
	default:
		key := datagramKey{
			src: netip.AddrPortFrom(src, echoIdent(message.AsSlice())),
			dst: netip.AddrPortFrom(dst, 0),
		}
		d.quote = appendQuote(d.quote[:0], pkt.NetworkHeader().Slice(), nil, message.AsSlice())
		d.table.deliver(key, message, d.quote)
		return true
	}
	message.Release()
	return true
}

// rejectICMP refuses the echo request that began with quote.
func (s *Stack) rejectICMP(reason flow.Reason, quote []byte) {
	switch reason {
	case flow.Denied:
		s.sendUnreachable(unreachableAdmin, quote)
	case flow.NetUnreachable:
		s.sendUnreachable(unreachableNet, quote)
	default:
		s.sendUnreachable(unreachableHost, quote)
	}
}

// parseEchoRequest looks at an ICMP message of the sandbox. valid says that it is whole; request that it is an echo
// request (RFC 792, RFC 4443 section 4.1). ICMPv6 checksums have been verified by then: they cover addresses.
func parseEchoRequest(m []byte, v4 bool) (request, valid bool) {
	if len(m) < header.ICMPv4MinimumSize {
		return false, false
	}
	if v4 {
		return header.ICMPv4(m).Type() == header.ICMPv4Echo && m[1] == 0, checksum.Checksum(m, 0) == 0xffff
	}
	return header.ICMPv6(m).Type() == header.ICMPv6EchoRequest && m[1] == 0, true
}
