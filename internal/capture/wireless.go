package capture

import "encoding/binary"

// wireless strips what a capture of IEEE 802.11 has before the frame: radiotap (127), PPI (192), Prism (119) and AVS
// (163) headers.
func (d *decoder) wireless(kind uint32, b []byte) bool {
	head := 0
	switch kind {
	case 127, 192:
		if len(b) < 4 {
			return false
		}
		head = int(binary.LittleEndian.Uint16(b[2:]))
	case 119, 163:
		if len(b) < 8 {
			return false
		}
		// Prism has its length in host order, AVS in network order and 0x8021100 above its version.
		head = int(d.order.Uint32(b[4:]) & 0xffff)
		if binary.BigEndian.Uint32(b)>>12 == 0x80211 {
			head = int(binary.BigEndian.Uint32(b[4:]) & 0xffff)
		}
	}
	if head > len(b) {
		return false
	}
	return d.dot11(b[head:])
}

// dot11 reads a data frame (IEEE 802.11 section 9.3.2) that is not encrypted.
func (d *decoder) dot11(b []byte) bool {
	const data, toDS, fromDS, protected, order = 2, 1, 2, 0x40, 0x80
	if len(b) < 24 || b[0]>>2&3 != data || b[1]&protected != 0 {
		return false
	}
	subtype, flags := b[0]>>4, b[1]
	n := 24
	if flags&(toDS|fromDS) == toDS|fromDS {
		n += 6 // fourth address
	}
	if subtype&4 != 0 {
		return false // no data
	}
	if subtype&8 != 0 { // QoS
		if len(b) < n+2 {
			return false
		}
		if b[n]&0x80 != 0 {
			return d.amsdu(b[n+2:])
		}
		n += 2
		if flags&order != 0 {
			n += 4 // HT control
		}
	}
	return len(b) > n && d.llc(b[n:])
}

// amsdu reads the frames of an aggregate (section 9.3.2.2.2).
func (d *decoder) amsdu(b []byte) bool {
	found := false
	for len(b) >= 14 && d.enter() {
		n := 14 + int(binary.BigEndian.Uint16(b[12:]))
		if d.llc(b[14:min(n, len(b))]) {
			found = true
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return found
}
