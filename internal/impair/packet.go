package impair

import (
	"encoding/binary"
	"net/netip"
)

const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58

	header4 = 20 // octets of an IPv4 header without options
	header6 = 40
)

// packet is an IP packet whose header was read. raw is the whole of it.
type packet struct {
	raw       []byte
	protocol  uint8
	transport int // where the transport header begins
	src, dst  netip.Addr
	four      bool
	later     bool // a fragment that is not the first: it has no transport header
}

// parse reads a packet's header. Extension headers of IPv6 are not followed.
func parse(raw []byte) (packet, bool) {
	switch {
	case len(raw) >= header4 && raw[0]>>4 == 4:
		length := int(raw[0]&0xf) * 4
		if length < header4 || length > len(raw) || int(binary.BigEndian.Uint16(raw[2:])) != len(raw) {
			return packet{}, false
		}
		return packet{
			raw: raw, protocol: raw[9], transport: length, four: true, later: binary.BigEndian.Uint16(raw[6:])&0x1fff != 0,
			src: netip.AddrFrom4([4]byte(raw[12:16])), dst: netip.AddrFrom4([4]byte(raw[16:20])),
		}, true
	case len(raw) >= header6 && raw[0]>>4 == 6:
		return packet{
			raw: raw, protocol: raw[6], transport: header6,
			src: netip.AddrFrom16([16]byte(raw[8:24])), dst: netip.AddrFrom16([16]byte(raw[24:40])),
		}, true
	}
	return packet{}, false
}

// ports are the two of TCP or UDP, nil where there are none.
func (p packet) ports() []byte {
	if p.protocol != protocolTCP && p.protocol != protocolUDP || p.later || len(p.raw) < p.transport+8 {
		return nil
	}
	return p.raw[p.transport : p.transport+4]
}

// checksum is where the transport checksum stands, nil where there is none to keep right.
func (p packet) checksum() []byte {
	at := p.transport + 6
	if p.protocol == protocolTCP {
		at = p.transport + 16
	}
	if p.later || len(p.raw) < at+2 {
		return nil
	}
	sum := p.raw[at : at+2]
	if p.protocol == protocolUDP && sum[0] == 0 && sum[1] == 0 {
		return nil // RFC 768: the sender made none
	}
	return sum
}

// rewrite puts an IPv4 address and a port in place of others, and keeps the checksums right (RFC 1624).
func (p packet) rewrite(addr, port []byte, to netip.AddrPort) {
	var fresh [6]byte
	four := to.Addr().As4()
	copy(fresh[:4], four[:])
	binary.BigEndian.PutUint16(fresh[4:], to.Port())
	adjust(p.raw[10:12], addr, fresh[:4])
	if sum := p.checksum(); sum != nil {
		adjust(sum, addr, fresh[:4])
		adjust(sum, port, fresh[4:])
		if p.protocol == protocolUDP && sum[0] == 0 && sum[1] == 0 {
			sum[0], sum[1] = 0xff, 0xff
		}
	}
	copy(addr, fresh[:4])
	copy(port, fresh[4:])
}

// adjust keeps a checksum right when some of what it covers changes: an even number of octets.
func adjust(sum, old, fresh []byte) {
	c := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i < len(old); i += 2 {
		c += uint32(^binary.BigEndian.Uint16(old[i:])) + uint32(binary.BigEndian.Uint16(fresh[i:]))
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	binary.BigEndian.PutUint16(sum, ^uint16(c))
}

// sumOf is the checksum of RFC 1071 over b, with start added.
func sumOf(start uint32, b []byte) uint16 {
	c := start
	for ; len(b) >= 2; b = b[2:] {
		c += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		c += uint32(b[0]) << 8
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	return ^uint16(c)
}

// tooBig is the ICMP message that tells the sender of p what a link can carry: type 3 code 4 of RFC 1191, or type 2 of
// RFC 4443, which comes from the address that p was for, as router has none of that family. Nil where none may be sent.
func (p packet) tooBig(router netip.Addr, mtu int) []byte {
	if p.later || p.protocol == protocolICMP || p.protocol == protocolICMPv6 {
		return nil
	}
	if p.four {
		return p.tooBig4(router, mtu)
	}
	quote := p.raw[:min(len(p.raw), 1280-header6-8)]
	m := make([]byte, header6+8+len(quote))
	m[0], m[6], m[7] = 6<<4, protocolICMPv6, 64
	binary.BigEndian.PutUint16(m[4:], uint16(8+len(quote)))
	copy(m[8:], p.raw[24:40])
	copy(m[24:], p.raw[8:24])
	body := m[header6:]
	body[0] = 2
	binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	copy(body[8:], quote)
	pseudo := uint32(len(body)) + protocolICMPv6
	for i := 8; i < header6; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	binary.BigEndian.PutUint16(body[2:], sumOf(pseudo, body))
	return m
}

func (p packet) tooBig4(router netip.Addr, mtu int) []byte {
	quote := p.raw[:min(len(p.raw), p.transport+8)]
	m := make([]byte, header4+8+len(quote))
	m[0], m[8], m[9] = 4<<4|header4/4, 64, protocolICMP
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	from := router.As4()
	copy(m[12:], from[:])
	copy(m[16:], p.raw[12:16])
	binary.BigEndian.PutUint16(m[10:], sumOf(0, m[:header4]))
	body := m[header4:]
	body[0], body[1] = 3, 4
	binary.BigEndian.PutUint16(body[6:], uint16(mtu))
	copy(body[8:], quote)
	binary.BigEndian.PutUint16(body[2:], sumOf(0, body))
	return m
}
