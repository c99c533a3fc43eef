package capture

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// TCP flags (RFC 9293 section 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

// segment is a TCP segment; data may be cut by the snap length.
type segment struct {
	at       time.Time
	src, dst netip.AddrPort
	seq, ack uint32
	flags    uint8
	data     []byte
}

// has reports whether all of the flags are set.
func (s *segment) has(flags uint8) bool { return s.flags&flags == flags }

// tcp reads a TCP header. A header whose options were cut off by the snap length has no data that could be used.
func tcp(p packet) (segment, bool) {
	b := p.body
	if len(b) < 20 {
		return segment{}, false
	}
	head := int(b[12]>>4) * 4
	if head < 20 {
		return segment{}, false
	}
	return segment{
		at:    p.at,
		src:   netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(b)),
		dst:   netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(b[2:])),
		seq:   binary.BigEndian.Uint32(b[4:]),
		ack:   binary.BigEndian.Uint32(b[8:]),
		flags: b[13],
		data:  b[min(head, len(b)):],
	}, true
}

// datagram reads a UDP header (RFC 768). A length of zero is a jumbogram or segmentation left to the card.
func datagram(b []byte) (src, dst uint16, data []byte, ok bool) {
	if len(b) < 8 {
		return 0, 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n == 0 {
		n = len(b)
	}
	if n < 8 {
		return 0, 0, nil, false
	}
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[8:min(n, len(b))], true
}

// echo reads an ICMP or ICMPv6 echo message (RFC 792, RFC 4443 section 4): its identifier, and whether it is a request.
func echo(p packet) (id uint16, request, ok bool) {
	if len(p.body) < 8 {
		return 0, false, false
	}
	switch kind := p.body[0]; {
	case p.proto == protoICMP && (kind == 8 || kind == 0):
		request = kind == 8
	case p.proto == protoICMPv6 && (kind == 128 || kind == 129):
		request = kind == 128
	default:
		return 0, false, false
	}
	return binary.BigEndian.Uint16(p.body[4:]), request, true
}
