package capture

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers that are looked into.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoIPv4     = 4
	protoTCP      = 6
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoAH       = 51
	protoICMPv6   = 58
	protoNoNext   = 59
	protoOptions  = 60
	protoEtherIP  = 97
	protoMobility = 135
	protoHIP      = 139
	protoShim6    = 140
	protoMPLS     = 137
)

// ip reads an IP packet of the version that it says.
func (d *decoder) ip(b []byte) bool {
	if len(b) == 0 || !d.enter() {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return d.ipv4(b)
	case 6:
		return d.ipv6(b)
	}
	return false
}

// ipv4 reads a header of RFC 791 section 3.1. A total length of zero is what a host writes that leaves segmentation to
// its network card: then the frame's length counts.
func (d *decoder) ipv4(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = len(b)
	}
	if head < 20 || head > len(b) || total < head {
		return false
	}
	p := packet{
		at:    d.at,
		src:   netip.AddrFrom4([4]byte(b[12:])),
		dst:   netip.AddrFrom4([4]byte(b[16:])),
		proto: b[9],
		body:  b[head:min(total, len(b))],
	}
	flags := binary.BigEndian.Uint16(b[6:])
	offset, more := int(flags&0x1fff)*8, flags&0x2000 != 0
	if offset == 0 && !more {
		return d.payload(p)
	}
	key := fragmentKey{src: p.src, dst: p.dst, id: uint32(binary.BigEndian.Uint16(b[4:])), proto: p.proto}
	return d.fragment(key, p, offset, more)
}

// ipv6 reads a header and its extension headers (RFC 8200 sections 3 and 4).
func (d *decoder) ipv6(b []byte) bool {
	if len(b) < 40 {
		return false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	p := packet{at: d.at, src: netip.AddrFrom16([16]byte(b[8:])), dst: netip.AddrFrom16([16]byte(b[24:])), proto: b[6]}
	p.body = b[40:]
	if length != 0 { // zero is a jumbogram or segmentation left to the card
		p.body = p.body[:min(length, len(p.body))]
	}
	for d.enter() {
		switch p.proto {
		case protoHopByHop, protoRouting, protoOptions, protoMobility, protoHIP, protoShim6:
			if !p.strip(8, 8) {
				return false
			}
		case protoFragment:
			if len(p.body) < 8 {
				return false
			}
			field := binary.BigEndian.Uint16(p.body[2:])
			key := fragmentKey{src: p.src, dst: p.dst, id: binary.BigEndian.Uint32(p.body[4:])}
			p.proto, p.body = p.body[0], p.body[8:]
			if field&^7 == 0 && field&1 == 0 {
				continue // an atomic fragment (RFC 6946)
			}
			return d.fragment(key, p, int(field&^7), field&1 != 0)
		default:
			return d.payload(p)
		}
	}
	return false
}

// strip removes an extension header whose second octet counts units beyond the first octets.
func (p *packet) strip(first, unit int) bool {
	if len(p.body) < 2 {
		return false
	}
	n := first + int(p.body[1])*unit
	if n > len(p.body) {
		return false
	}
	p.proto, p.body = p.body[0], p.body[n:]
	return true
}

// fragment joins; the whole datagram goes on as if it had come in one piece.
func (d *decoder) fragment(key fragmentKey, p packet, offset int, more bool) bool {
	whole, proto, ok := d.fragments.add(key, p, offset, more)
	if !ok {
		return true // kept, or dropped by the rules of fragments: nothing is wrong with the frame
	}
	p.proto, p.body = proto, whole
	return d.upper(p)
}

// upper takes a joined datagram apart. With IPv6, extension headers may follow behind the fragment header.
func (d *decoder) upper(p packet) bool {
	for p.src.Is6() && d.enter() {
		switch p.proto {
		case protoRouting, protoOptions, protoMobility, protoHIP, protoShim6, protoHopByHop:
			if !p.strip(8, 8) {
				return false
			}
			continue
		}
		break
	}
	return d.payload(p)
}

// payload goes by the protocol number.
func (d *decoder) payload(p packet) bool {
	switch p.proto {
	case protoTCP, protoICMP, protoICMPv6:
		d.deliver(p)
		return true
	case protoUDP:
		if !d.tunnelled(p) {
			d.deliver(p)
		}
		return true
	case protoIPv4, protoIPv6:
		return d.ip(p.body)
	case protoGRE:
		return d.gre(p.body)
	case protoEtherIP:
		return len(p.body) > 2 && d.enter() && d.ethernet(p.body[2:])
	case protoMPLS:
		return d.mpls(p.body)
	case protoAH: // RFC 4302 section 2.2: the length counts words of four octets, minus two
		return d.enter() && p.strip(8, 4) && d.payload(p)
	}
	return false
}
