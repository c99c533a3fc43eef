package capture

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// EtherTypes (IEEE 802 numbers) that lead to an IP packet.
const (
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
	etherVLAN      = 0x8100
	etherQinQ      = 0x88a8
	etherQinQOld   = 0x9100
	etherQinQOlder = 0x9200
	etherMPLS      = 0x8847
	etherMPLSMulti = 0x8848
	etherPPPoE     = 0x8864
	etherPPP       = 0x880b
	etherVNTag     = 0x8926 // IEEE 802.1BR
	etherPBB       = 0x88e7 // IEEE 802.1ah: an Ethernet frame behind the service tag
	etherNSH       = 0x894f // RFC 8300
	etherBridge    = 0x6558 // transparent Ethernet bridging: an Ethernet frame inside
	etherERSPAN    = 0x88be
	etherERSPAN3   = 0x22eb
)

// maxLayers bounds the headers of one frame: link layers, tags, IP headers, tunnels.
const maxLayers = 32

// decoder takes frames apart down to their transport headers.
type decoder struct {
	fragments fragments
	deliver   func(packet)
	stats     *Stats

	at     time.Time
	order  binary.ByteOrder
	layers int
}

// packet is an IP datagram without its headers, whole again if it was fragmented. body may be cut by the snap length and
// is valid only during the call.
type packet struct {
	at       time.Time
	src, dst netip.Addr
	proto    uint8
	body     []byte
}

// frame takes one frame apart. Frames without an IP packet that we understand are counted and passed over.
func (d *decoder) frame(fr *frame) {
	d.at, d.order, d.layers = fr.at, fr.order, 0
	if !d.link(fr.link, fr.data) {
		d.stats.Undecoded++
	}
}

// enter counts a header and reports whether one more is allowed.
func (d *decoder) enter() bool {
	d.layers++
	return d.layers <= maxLayers
}

// link strips the link layer: the numbers are those of the LINKTYPE_ registry (draft-ietf-opsawg-pcaplinktype). All
// decoders report whether an IP packet was found and whole enough to be used.
func (d *decoder) link(kind uint32, b []byte) bool {
	switch kind {
	case 0: // NULL: address family in the byte order of the capturing host
		return len(b) >= 4 && d.family(d.order.Uint32(b), b[4:])
	case 108: // LOOP: the same in network order
		return len(b) >= 4 && d.family(binary.BigEndian.Uint32(b), b[4:])
	case 1:
		return d.ethernet(b)
	case 9, 50, 204, 205: // PPP; in HDLC-like framing; with a direction octet
		if kind >= 204 && len(b) > 0 {
			b = b[1:]
		}
		return d.ppp(b)
	case 51:
		return d.pppoe(b)
	case 12, 14, 101, 228, 229: // raw IP, in several numbers
		return d.ip(b)
	case 100: // RFC 1483
		return d.llc(b)
	case 104: // Cisco HDLC: address, control, EtherType
		return len(b) >= 4 && d.ether(binary.BigEndian.Uint16(b[2:]), b[4:])
	case 105, 119, 127, 163, 192:
		return d.wireless(kind, b)
	case 109: // OpenBSD enc(4): address family, SPI, flags
		return len(b) >= 12 && d.family(d.order.Uint32(b), b[12:])
	case 113:
		return d.cooked(b)
	case 276:
		return d.cooked2(b)
	case 239:
		return d.nflog(b)
	}
	d.stats.Unsupported++
	d.stats.LinkType = kind
	return false
}

// family goes by an AF_ number. AF_INET is 2 everywhere, AF_INET6 is 10 on Linux, 24, 28 and 30 on the BSDs, and 23 on
// Windows. A family in the other byte order means a file that was converted.
func (d *decoder) family(af uint32, b []byte) bool {
	if af > 0xffff {
		af = af>>24 | af>>8&0xff00
	}
	switch af {
	case 2, 10, 23, 24, 28, 30:
		return d.ip(b)
	}
	return false
}

func (d *decoder) ethernet(b []byte) bool {
	return len(b) >= 14 && d.ether(binary.BigEndian.Uint16(b[12:]), b[14:])
}

// ether goes by an EtherType; values up to 1500 are a length, and an LLC header follows (IEEE 802.3 section 3.2.6).
func (d *decoder) ether(kind uint16, b []byte) bool {
	for d.enter() {
		switch kind {
		case etherIPv4, etherIPv6:
			return d.ip(b)
		case etherVLAN, etherQinQ, etherQinQOld, etherQinQOlder:
			if len(b) < 4 {
				return false
			}
			kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
			continue
		case etherVNTag:
			if len(b) < 6 {
				return false
			}
			kind, b = binary.BigEndian.Uint16(b[4:]), b[6:]
			continue
		case etherPBB:
			return len(b) > 4 && d.ethernet(b[4:])
		case etherNSH:
			return d.nsh(b)
		case etherMPLS, etherMPLSMulti:
			return d.mpls(b)
		case etherPPPoE:
			return d.pppoe(b)
		case etherPPP:
			return d.ppp(b)
		case etherBridge:
			return d.ethernet(b)
		}
		if kind <= 1500 {
			return d.llc(b[:min(int(kind), len(b))])
		}
		return false
	}
	return false
}

// nsh reads a network service header (RFC 8300 section 2): its length in words, and what follows it.
func (d *decoder) nsh(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	n, next := int(b[1]&0x3f)*4, b[3]
	switch {
	case n < 8 || len(b) < n:
		return false
	case next == 1 || next == 2:
		return d.ip(b[n:])
	case next == 3:
		return d.ethernet(b[n:])
	}
	return false
}

// llc reads an IEEE 802.2 header: SNAP with an EtherType, or the address of IP itself.
func (d *decoder) llc(b []byte) bool {
	switch {
	case len(b) >= 8 && b[0] == 0xaa && b[1] == 0xaa && b[2] == 3:
		return d.ether(binary.BigEndian.Uint16(b[6:]), b[8:])
	case len(b) >= 3 && b[0] == 6 && b[1] == 6 && b[2] == 3:
		return d.ip(b[3:])
	}
	return false
}

// mpls pops labels (RFC 3032). What is inside is not said: an IP version shows an IP packet, and a frame of a pseudowire
// begins with a control word of zeros (RFC 4385).
func (d *decoder) mpls(b []byte) bool {
	for len(b) >= 4 && d.enter() {
		bottom := b[2]&1 != 0
		if b = b[4:]; !bottom {
			continue
		}
		switch {
		case len(b) == 0:
			return false
		case b[0]>>4 == 4 || b[0]>>4 == 6:
			return d.ip(b)
		case b[0]>>4 == 0 && len(b) > 4:
			return d.ethernet(b[4:])
		}
		return false
	}
	return false
}

// pppoe reads a session packet (RFC 2516 section 4).
func (d *decoder) pppoe(b []byte) bool {
	if len(b) < 6 || b[0] != 0x11 || b[1] != 0 {
		return false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	return d.ppp(b[6:min(6+n, len(b))])
}

// ppp reads a frame with or without address and control (RFC 1662 section 3.1), with a protocol field of one or two
// octets.
func (d *decoder) ppp(b []byte) bool {
	if len(b) >= 2 && (b[0] == 0xff && b[1] == 3 || b[0] == 0x0f && b[1] == 0) {
		cisco := b[0] == 0x0f // Cisco HDLC under the PPP link type
		b = b[2:]
		if cisco {
			return len(b) >= 2 && d.ether(binary.BigEndian.Uint16(b), b[2:])
		}
	}
	if len(b) < 2 || !d.enter() {
		return false
	}
	proto := uint16(b[0])
	if b = b[1:]; proto&1 == 0 {
		proto, b = proto<<8|uint16(b[0]), b[1:]
	}
	switch proto {
	case 0x21, 0x57:
		return d.ip(b)
	case 0x281, 0x283:
		return d.mpls(b)
	}
	return false
}

// cooked reads a LINUX_SLL header.
func (d *decoder) cooked(b []byte) bool {
	return len(b) >= 16 && d.cookedBody(binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[14:]), b[16:])
}

// cooked2 reads a LINUX_SLL2 header.
func (d *decoder) cooked2(b []byte) bool {
	return len(b) >= 20 && d.cookedBody(binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b), b[20:])
}

// cookedBody goes by the ARPHRD_ type, which for some devices says more than the protocol field.
func (d *decoder) cookedBody(device, proto uint16, b []byte) bool {
	switch device {
	case 778: // GRE: the field holds the EtherType that the tunnel carries
	case 803: // radiotap
		return d.wireless(127, b)
	}
	switch proto {
	case 1: // 802.3 frame without LLC
		return false
	case 4: // 802.2
		return d.llc(b)
	}
	return d.ether(proto, b)
}

// nflog reads a netfilter log message: type, length, value triples in the capturing host's byte order; the packet is
// the one of type 9.
func (d *decoder) nflog(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	for b = b[4:]; len(b) >= 4; {
		n, kind := int(d.order.Uint16(b)), d.order.Uint16(b[2:])
		if n < 4 {
			return false
		}
		if kind == 9 {
			return d.ip(b[4:min(n, len(b))])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false
}
