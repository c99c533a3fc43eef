package netstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// dropUSO counts UDP super-datagrams that do not add up.
const dropUSO = "drop-uso"

// maxUSOSegments is how many datagrams one super-datagram may be cut into: the most that Linux lets a program hand over
// at once (UDP_MAX_SEGMENTS).
const maxUSOSegments = 128

// receiveUSO cuts a UDP super-datagram (UDP_SEGMENT, virtio 1.2 VIRTIO_NET_HDR_GSO_UDP_L4) into the datagrams the
// program sent, and delivers each. It takes over frame.
func (e *endpoint) receiveUSO(frame buffer.Buffer, h vnetHdr) {
	flat := frame.Flatten()
	frame.Release()
	hdrs, payload, ok := splitUDP(flat)
	if !ok || len(payload) > maxUSOSegments*int(h.gsoSize) {
		e.counters.add(dropUSO, 1)
		return
	}
	for len(payload) > 0 {
		n := min(int(h.gsoSize), len(payload))
		v := buffer.NewViewSize(len(hdrs) + n)
		b := v.AsSlice()
		copy(b, hdrs)
		copy(b[len(hdrs):], payload[:n])
		payload = payload[n:]
		fixUDP(b[header.EthernetMinimumSize:], len(hdrs)-header.EthernetMinimumSize-header.UDPMinimumSize)
		e.deliver(buffer.MakeWithView(v))
	}
}

// splitUDP parts a frame that passed the filter behind its UDP header. Packets with IPv6 extension headers and fragments
// are refused: no kernel leaves the cutting of those to a device.
func splitUDP(frame []byte) (hdrs, payload []byte, ok bool) {
	ip := frame[header.EthernetMinimumSize:]
	hlen, end, proto := header.IPv6MinimumSize, 0, tcpip.TransportProtocolNumber(0)
	if header.IPVersion(ip) == header.IPv4Version {
		hlen, end = int(header.IPv4(ip).HeaderLength()), int(header.IPv4(ip).TotalLength())
		proto = header.IPv4(ip).TransportProtocol()
		if header.IPv4(ip).More() || header.IPv4(ip).FragmentOffset() != 0 {
			return nil, nil, false
		}
	} else {
		end, proto = hlen+int(header.IPv6(ip).PayloadLength()), tcpip.TransportProtocolNumber(header.IPv6(ip).NextHeader())
	}
	if proto != header.UDPProtocolNumber || end < hlen+header.UDPMinimumSize {
		return nil, nil, false
	}
	cut := header.EthernetMinimumSize + hlen + header.UDPMinimumSize
	return frame[:cut], frame[cut : header.EthernetMinimumSize+end], true
}

// fixUDP sets the lengths and checksums of one datagram cut from a larger one; hlen is its IP header's length.
func fixUDP(ip []byte, hlen int) {
	udp := header.UDP(ip[hlen:])
	udp.SetLength(uint16(len(udp)))
	udp.SetChecksum(0)
	var src, dst tcpip.Address
	if header.IPVersion(ip) == header.IPv4Version {
		h := header.IPv4(ip)
		h.SetTotalLength(uint16(len(ip)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		src, dst = h.SourceAddress(), h.DestinationAddress()
	} else {
		h := header.IPv6(ip)
		h.SetPayloadLength(uint16(len(udp)))
		src, dst = h.SourceAddress(), h.DestinationAddress()
	}
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(udp)))
	sum = ^checksum.Checksum(udp, sum)
	if sum == 0 {
		sum = 0xffff
	}
	udp.SetChecksum(sum)
}
