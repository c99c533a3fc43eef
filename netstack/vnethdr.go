package netstack

import "encoding/binary"

// vnetHdr is struct virtio_net_hdr in little-endian order (virtio 1.2 section 5.1.6): what the sender left for the
// device to do with the frame behind it.
type vnetHdr struct {
	flags      uint8
	gsoType    uint8
	hdrLen     uint16 // bytes of headers before the payload that is to be cut
	gsoSize    uint16 // payload bytes per segment
	csumStart  uint16 // where the checksum begins, from the Ethernet header on
	csumOffset uint16 // where it goes, from csumStart on
}

const (
	vnetNeedsCsum = 1

	vnetGSONone  = 0
	vnetGSOTCPv4 = 1
	vnetGSOTCPv6 = 4
	vnetGSOUDPL4 = 5
	vnetGSOECN   = 0x80
)

// put writes h to b, which holds at least vnetHdrLen bytes.
func (h vnetHdr) put(b []byte) {
	b[0], b[1] = h.flags, h.gsoType
	binary.LittleEndian.PutUint16(b[2:], h.hdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.gsoSize)
	binary.LittleEndian.PutUint16(b[6:], h.csumStart)
	binary.LittleEndian.PutUint16(b[8:], h.csumOffset)
}

// parseVnetHdr reads a header from b, which holds at least vnetHdrLen bytes.
func parseVnetHdr(b []byte) vnetHdr {
	return vnetHdr{
		flags:      b[0],
		gsoType:    b[1],
		hdrLen:     binary.LittleEndian.Uint16(b[2:]),
		gsoSize:    binary.LittleEndian.Uint16(b[4:]),
		csumStart:  binary.LittleEndian.Uint16(b[6:]),
		csumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}

// valid says whether h can stand before a frame of frameLen bytes.
func (h vnetHdr) valid(frameLen int) bool {
	if h.flags&vnetNeedsCsum != 0 && int(h.csumStart)+int(h.csumOffset)+2 > frameLen {
		return false
	}
	switch h.gsoType &^ vnetGSOECN {
	case vnetGSONone:
		return true
	case vnetGSOTCPv4, vnetGSOTCPv6, vnetGSOUDPL4:
		return h.gsoSize > 0 && int(h.hdrLen) <= frameLen
	}
	return false
}
