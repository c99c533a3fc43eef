package netstack

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// writeSegments does in software what the device refused: it cuts a large TCP packet into segments of its MSS, finishes
// their checksums and sends them one by one.
func (e *endpoint) writeSegments(pkt *stack.PacketBuffer) {
	e.counters.add(countSegmented, 1)
	whole := pkt.ToView()
	defer whole.Release()
	for _, seg := range segment(whole.AsSlice(), int(pkt.GSOOptions.L3HdrLen), int(pkt.GSOOptions.MSS)) {
		var none [vnetHdrLen]byte
		iovs := make([]unix.Iovec, 0, 2)
		if e.vnet {
			iovs = append(iovs, iovec(none[:]))
		}
		e.countTx(e.writeFrame(append(iovs, iovec(seg))))
	}
}

// segment cuts an Ethernet frame that holds a TCP packet with an IP header of l3 bytes into frames of at most mss bytes
// of payload. FIN and PSH go to the last one only, CWR to the first (RFC 3168 section 6.1.2).
func segment(frame []byte, l3, mss int) [][]byte {
	const eth = header.EthernetMinimumSize
	tcp := header.TCP(frame[eth+l3:])
	hlen := eth + l3 + int(tcp.DataOffset())
	payload := frame[hlen:]
	flags, seq := tcp.Flags(), tcp.SequenceNumber()
	id := header.IPv4(frame[eth:]).ID()

	var out [][]byte
	for first := true; len(payload) > 0 || first; first = false {
		n := min(mss, len(payload))
		seg := make([]byte, hlen+n)
		copy(seg, frame[:hlen])
		copy(seg[hlen:], payload[:n])
		payload = payload[n:]

		f := flags
		if len(payload) > 0 {
			f &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		if !first {
			f &^= tcpFlagCWR
		}
		t := header.TCP(seg[eth+l3:])
		t.SetSequenceNumber(seq)
		t.SetFlags(uint8(f))
		finishSegment(seg[eth:], l3, id)
		out = append(out, seg)
		seq += uint32(n)
		id++
	}
	return out
}

// tcpFlagCWR is the congestion window reduced flag.
const tcpFlagCWR header.TCPFlags = 0x80

// finishSegment sets the length and checksums of one TCP packet whose IP header has l3 bytes.
func finishSegment(ip []byte, l3 int, id uint16) {
	t := header.TCP(ip[l3:])
	var src, dst tcpip.Address
	if header.IPVersion(ip) == header.IPv4Version {
		h := header.IPv4(ip)
		h.SetID(id)
		h.SetTotalLength(uint16(len(ip)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		src, dst = h.SourceAddress(), h.DestinationAddress()
	} else {
		h := header.IPv6(ip)
		h.SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
		src, dst = h.SourceAddress(), h.DestinationAddress()
	}
	t.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(t)))
	t.SetChecksum(^checksum.Checksum(t, sum))
}
