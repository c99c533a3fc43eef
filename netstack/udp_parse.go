package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// udpFrame is where in a frame a UDP payload is, and whose it is.
type udpFrame struct {
	tuple udpTuple

	// start is the offset of the payload and end that of what follows it, from the Ethernet header on.
	start, end int

	// segment is the size of the datagrams that the payload is to be cut into, 0 where it is one.
	segment int

	// fixed says that no router may cut the packet: IPv6, or IPv4 with DF.
	fixed bool

	// unsummed says that the checksum in the frame is the whole one, and nobody has looked at it yet.
	unsummed bool
}

// udpTuple is source address, destination address, source port and destination port as they are in a packet, behind its IP
// version. IPv4 leaves the rest empty.
type udpTuple [1 + 2*header.IPv6AddressSize + 4]byte

// key names the flow.
func (t *udpTuple) key() datagramKey {
	size := header.IPv4AddressSize
	if t[0] == header.IPv6Version {
		size = header.IPv6AddressSize
	}
	src, _ := netip.AddrFromSlice(t[1:][:size])
	dst, _ := netip.AddrFromSlice(t[1+size:][:size])
	ports := t[1+2*size:]
	return datagramKey{
		src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports)),
		dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:])),
	}
}

// parseUDP reads the headers of a frame that passed the filter, of which first is the beginning. It reports false for all
// that is not a plain, whole datagram, or a super-datagram, which gVisor and receiveUSO are for: other protocols,
// fragments, IPv4 options, IPv6 extension headers, a TTL that is used up, broken lengths and checksums, UDP without a
// checksum, octets behind the datagram. vnet says that there is a virtio-net header, and h is it.
func parseUDP(first []byte, vnet bool, h vnetHdr) (f udpFrame, ok bool) {
	if len(first) < header.EthernetMinimumSize+header.IPv4MinimumSize+header.UDPMinimumSize {
		return f, false
	}
	ip := first[header.EthernetMinimumSize:]
	var at int // of the UDP header, in ip
	var size int
	switch {
	case ip[0] == header.IPv4Version<<4|header.IPv4MinimumSize/4:
		at, size, ok = f.parse4(ip)
	case ip[0]>>4 == header.IPv6Version:
		at, size, ok = f.parse6(ip)
	}
	if !ok {
		return f, false
	}
	udp := ip[at:]
	sum := binary.BigEndian.Uint16(udp[6:])
	if int(binary.BigEndian.Uint16(udp[4:])) != size || size < header.UDPMinimumSize || sum == 0 {
		return f, false
	}
	f.start, f.end = header.EthernetMinimumSize+at+header.UDPMinimumSize, header.EthernetMinimumSize+at+size
	if vnet && h.flags&vnetNeedsCsum != 0 {
		if int(h.csumStart) != header.EthernetMinimumSize+at || h.csumOffset != 6 {
			return f, false
		}
	} else {
		f.unsummed = true
	}
	if !vnet || h.gsoType == vnetGSONone {
		return f, true
	}
	f.segment = int(h.gsoSize)
	return f, h.gsoType == vnetGSOUDPL4 && !f.unsummed && f.end > f.start && f.end-f.start <= maxUSOSegments*f.segment
}

// parse4 reads an IPv4 header without options. size is what its packet has behind it, at where that is.
func (f *udpFrame) parse4(ip []byte) (at, size int, ok bool) {
	const dontFragment, moreAndOffset, protocol, ttl = 0x4000, 0x3fff, 9, 8
	at = header.IPv4MinimumSize
	if ip[protocol] != uint8(header.UDPProtocolNumber) || ip[ttl] == 0 || binary.BigEndian.Uint16(ip[6:])&moreAndOffset != 0 ||
		checksum.Checksum(ip[:at], 0) != 0xffff {
		return 0, 0, false
	}
	f.fixed = binary.BigEndian.Uint16(ip[6:])&dontFragment != 0
	f.tuple[0] = header.IPv4Version
	copy(f.tuple[1:], ip[12:at+4])
	return at, int(binary.BigEndian.Uint16(ip[2:])) - at, true
}

// parse6 reads an IPv6 header without extensions.
func (f *udpFrame) parse6(ip []byte) (at, size int, ok bool) {
	const next, hops = 6, 7
	at = header.IPv6MinimumSize
	if len(ip) < at+header.UDPMinimumSize || ip[next] != uint8(header.UDPProtocolNumber) || ip[hops] == 0 {
		return 0, 0, false
	}
	f.fixed = true
	f.tuple[0] = header.IPv6Version
	copy(f.tuple[1:], ip[8:at+4])
	return at, int(binary.BigEndian.Uint16(ip[4:])), true
}

// validSum checks the checksum in a UDP header against the payload.
func (f *udpFrame) validSum(udp, payload []byte) bool {
	size := (len(f.tuple) - 5) / 2
	if f.tuple[0] == header.IPv4Version {
		size = header.IPv4AddressSize
	}
	sum := checksum.Checksum(f.tuple[1:][:2*size], uint16(header.UDPProtocolNumber))
	sum = checksum.Checksum(udp[4:6], sum) // the length, once for the pseudo header
	sum = checksum.Checksum(udp[:header.UDPMinimumSize], sum)
	return checksum.Checksum(payload, sum) == 0xffff
}
