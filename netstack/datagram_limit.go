package netstack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/weir-dev/weir/flow"
)

var _ flow.Limiter = (*datagramFlow)(nil)

const (
	countTooBig     = "drop-udp-too-big"
	countTooBigSent = "icmp-too-big-sent"
)

// tooBigInterval is how often a flow is told that its datagrams are too long. A kernel that heeds it needs one word.
const tooBigInterval = time.Second

// The smallest MTU that a host heeds: no link has less (RFC 8200 section 5), and Linux believes no router that says less
// (net.ipv4.route.min_pmtu). Datagrams that fit in there are never too long: a kernel that was told so would send them again.
const (
	leastMTU4 = 552
	leastMTU6 = header.IPv6MinimumMTU
)

// LimitDatagrams implements flow.Limiter.
func (f *datagramFlow) LimitDatagrams(max func() int) { f.limit.Store(&max) }

// tooLong says whether a datagram of size octets, that is not to be cut on its way, is longer than its path takes, and which
// MTU the path has.
func (f *datagramFlow) tooLong(size int) (mtu int, ok bool) {
	limit := f.limit.Load()
	if limit == nil {
		return 0, false
	}
	longest := (*limit)()
	if longest <= 0 {
		return 0, false // the path takes no datagrams at all now; they go another way
	}
	overhead, least := header.IPv4MinimumSize+header.UDPMinimumSize, leastMTU4
	if f.key.dst.Addr().Is6() {
		overhead, least = header.IPv6MinimumSize+header.UDPMinimumSize, leastMTU6
	}
	mtu = max(longest+overhead, least)
	return mtu, size > mtu-overhead
}

// tellTooBig counts a datagram that was too long, and tells the sandbox now and then; quote is the beginning of its packet.
func (f *datagramFlow) tellTooBig(mtu int, quote []byte) {
	t := f.table
	t.count(countTooBig)
	now, last := int64(t.now()), f.toldTooBig.Load()
	if last != 0 && now-last < int64(tooBigInterval) || !f.toldTooBig.CompareAndSwap(last, now|1) {
		return
	}
	if t.cfg.tooBig(mtu, quote) {
		t.count(countTooBigSent)
	}
}

// sendTooBig tells the sandbox that original, a packet of its own that is not to be cut, is longer than the path's MTU (RFC 1191
// section 4, RFC 4443 section 3.2). It reports whether that was sent.
func (s *Stack) sendTooBig(mtu int, original []byte) bool {
	return s.sendICMPError(original, func() []byte {
		if header.IPVersion(original) == header.IPv4Version {
			return s.icmpError4(original, header.ICMPv4DstUnreachable, header.ICMPv4FragmentationNeeded, uint32(mtu), false)
		}
		return s.icmpError6(original, header.ICMPv6PacketTooBig, header.ICMPv6UnusedCode, uint32(mtu), false)
	})
}

// keepTooLong answers a datagram that took the long way, whose headers are in pkt, when it is too long. One that came in
// fragments, or behind headers that few send, never is.
func (d *udpDoor) keepTooLong(key datagramKey, pkt *stack.PacketBuffer, payload []byte) bool {
	ip := pkt.NetworkHeader().Slice()
	switch header.IPVersion(ip) {
	case header.IPv4Version:
		if header.IPv4(ip).Flags()&header.IPv4FlagDontFragment == 0 {
			return false
		}
	case header.IPv6Version:
		if header.IPv6(ip).NextHeader() != uint8(header.UDPProtocolNumber) {
			return false
		}
	}
	f := d.table.find(key)
	if f == nil {
		return false
	}
	mtu, tooLong := f.tooLong(len(payload))
	if tooLong {
		d.quote = appendQuote(d.quote[:0], ip, pkt.TransportHeader().Slice(), payload)
		f.tellTooBig(mtu, d.quote)
	}
	return tooLong
}

// find returns the flow of key, nil when there is none.
func (t *datagramTable) find(key datagramKey) *datagramFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// fits takes out of a frame's payload what is too long for the path of its flow, and tells the sandbox. What is left may be
// empty: then ok is false. packet is the beginning of the frame's packet.
func (x *burstBox) fits(f *udpFrame, packet []byte, n int) (from int, ok bool) {
	if !f.fixed {
		return 0, true
	}
	size := n
	if f.segment > 0 {
		size = min(f.segment, n)
	}
	mtu, tooLong := x.flow.tooLong(size)
	if !tooLong {
		return 0, true
	}
	var quote [maxQuote]byte
	b := quote[:copy(quote[:], packet)]
	if f.segment > 0 {
		cutQuote(b, f.start-header.EthernetMinimumSize-header.UDPMinimumSize, size)
	}
	last := 0 // of a super-datagram, which is shorter than the others
	if f.segment > 0 {
		last = n % f.segment
	}
	for range (n - last + size - 1) / size {
		x.flow.tellTooBig(mtu, b)
	}
	if _, tooLong := x.flow.tooLong(last); last > 0 && !tooLong {
		return n - last, true
	}
	return 0, false
}

// cutQuote makes of the beginning of a super-datagram that of the first datagram in it: what the program has sent has its
// length. at is where the UDP header is.
func cutQuote(b []byte, at, size int) {
	if len(b) < at+header.UDPMinimumSize {
		return
	}
	binary.BigEndian.PutUint16(b[at+4:], uint16(header.UDPMinimumSize+size))
	if header.IPVersion(b) == header.IPv6Version {
		binary.BigEndian.PutUint16(b[4:], uint16(header.UDPMinimumSize+size))
		return
	}
	ip := header.IPv4(b)
	ip.SetTotalLength(uint16(at + header.UDPMinimumSize + size))
	ip.SetChecksum(0)
	ip.SetChecksum(^checksum.Checksum(b[:at], 0))
}
