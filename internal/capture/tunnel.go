package capture

import (
	"encoding/binary"
	"net/netip"
)

// Well-known ports of tunnels over UDP.
const (
	portVXLAN    = 4789 // RFC 7348
	portVXLANOld = 8472 // Linux before it had a number
	portGENEVE   = 6081 // RFC 8926
	portTeredo   = 3544 // RFC 4380
	portGTPU     = 2152 // 3GPP TS 29.281
)

// gre reads a GRE header (RFC 2784, RFC 2890), its PPTP variant (RFC 2637) and ERSPAN on top of it.
func (d *decoder) gre(b []byte) bool {
	if len(b) < 4 || !d.enter() {
		return false
	}
	flags, kind := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	const checksum, routing, key, sequence, ack = 0x8000, 0x4000, 0x2000, 0x1000, 0x0080
	n := 4
	if flags&(checksum|routing) != 0 {
		n += 4
	}
	if flags&key != 0 {
		n += 4
	}
	if flags&sequence != 0 {
		n += 4
	}
	version := flags & 7
	if version == 1 && flags&ack != 0 {
		n += 4
	}
	switch {
	case version > 1 || len(b) < n || flags&routing != 0:
		return false
	case kind == etherERSPAN && flags&sequence != 0:
		n += 8
	case kind == etherERSPAN3:
		if len(b) < n+12 {
			return false
		}
		if b[n+11]&1 != 0 {
			n += 8 // platform specific sub-header
		}
		n += 12
	case kind == etherERSPAN:
	default:
		return d.ether(kind, b[n:])
	}
	return len(b) > n && d.ethernet(b[n:])
}

// tunnelled looks into a UDP datagram and reports whether it is a tunnel's, whatever is in it. DNS ports come first: 2152
// and the others are ordinary ephemeral ports too.
func (d *decoder) tunnelled(p packet) bool {
	src, dst, b, ok := datagram(p.body)
	if !ok || isDNSPort(src) || isDNSPort(dst) {
		return false
	}
	switch {
	case dst == portVXLAN || dst == portVXLANOld:
		return d.vxlan(b)
	case dst == portGENEVE:
		return d.geneve(b)
	case dst == portGTPU || src == portGTPU:
		return d.gtp(b)
	}
	return d.teredo(b, src == portTeredo || dst == portTeredo)
}

func (d *decoder) vxlan(b []byte) bool {
	const hasVNI, groupPolicy = 0x08, 0x80
	if len(b) < 8+14 || b[0]&^groupPolicy != hasVNI || !d.enter() {
		return false
	}
	d.ethernet(b[8:])
	return true
}

func (d *decoder) geneve(b []byte) bool {
	if len(b) < 8 || b[0]>>6 != 0 || !d.enter() {
		return false
	}
	n := 8 + int(b[0]&0x3f)*4
	if len(b) <= n {
		return false
	}
	d.ether(binary.BigEndian.Uint16(b[2:]), b[n:])
	return true
}

// gtp reads a G-PDU with its extension headers (TS 29.281 section 5).
func (d *decoder) gtp(b []byte) bool {
	const version1, gpdu, extension, optional = 0x30, 255, 0x04, 0x07
	if len(b) < 8 || b[0]&0xf0 != version1 || b[1] != gpdu || !d.enter() {
		return false
	}
	flags, n := b[0], 8
	if b = b[:min(8+int(binary.BigEndian.Uint16(b[2:])), len(b))]; flags&optional != 0 {
		if n += 4; len(b) < n {
			return false
		}
		for next := b[n-1]; flags&extension != 0 && next != 0; next = b[n-1] {
			if len(b) <= n || b[n] == 0 || len(b) < n+int(b[n])*4 {
				return false
			}
			n += int(b[n]) * 4
		}
	}
	return d.exact(b[n:])
}

// teredo reads the indicators and the packet of RFC 4380 section 5.1.1. Relays and peers use any port, so elsewhere than
// on the port of servers an address of the Teredo prefix must show what it is.
func (d *decoder) teredo(b []byte, known bool) bool {
	for range 2 {
		if len(b) < 2 || b[0] != 0 {
			break
		}
		n := 0
		switch {
		case b[1] == 0: // origin indication
			n = 8
		case b[1] == 1 && len(b) > 4: // authentication
			n = 13 + int(b[2]) + int(b[3])
		}
		if n == 0 || n > len(b) || !known {
			return false
		}
		b = b[n:]
	}
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	prefix := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01}), 32)
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	if !known && !prefix.Contains(src) && !prefix.Contains(dst) {
		return false
	}
	return d.exact(b)
}

// exact reads an IP packet that must fill b, but for what the snap length cut off: a guard against taking other payloads
// for tunnels.
func (d *decoder) exact(b []byte) bool {
	fills := false
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		fills = int(binary.BigEndian.Uint16(b[2:])) >= len(b)
	case len(b) >= 40 && b[0]>>4 == 6:
		fills = int(binary.BigEndian.Uint16(b[4:]))+40 >= len(b)
	}
	if fills {
		d.ip(b)
	}
	return fills
}
