package netstack

import (
	"errors"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/internal/batch"
)

// countUSOOff counts that the device refused UDP super-datagrams, and gets none any more.
const countUSOOff = "uso-off"

// udpScratch is what describes one UDP frame to the kernel: the headers up to the payload, and where that is.
type udpScratch struct {
	head [vnetHdrLen + header.EthernetMinimumSize + header.IPv6MinimumSize + header.UDPMinimumSize]byte
	iovs []unix.Iovec
}

var udpScratches = sync.Pool{New: func() any { return &udpScratch{iovs: make([]unix.Iovec, 0, 1+maxUSOSegments)} }}

// writeUDP sends datagrams into the sandbox with one write: one, or a super-datagram of a run that the device cuts. Each
// fits the MTU. The device has virtio-net headers, and finishes the checksums. Only one that it has no room for is an
// error; the frame is lost and counted then.
func (e *endpoint) writeUDP(from, to netip.AddrPort, datagrams [][]byte) error {
	x := udpScratches.Get().(*udpScratch)
	n := e.udpHead(x.head[:], from, to, datagrams)
	x.iovs = batch.Iovecs(append(x.iovs, iovec(x.head[:n])), datagrams)
	err := e.writeFrame(x.iovs)
	clear(x.iovs)
	x.iovs = x.iovs[:0]
	udpScratches.Put(x)
	if len(datagrams) > 1 && errors.Is(err, unix.EINVAL) {
		if e.uso.CompareAndSwap(true, false) {
			e.counters.add(countUSOOff, 1)
		}
		for i := range datagrams {
			if err := e.writeUDP(from, to, datagrams[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	e.countTx(err)
	return err
}

// udpHead writes the headers of the datagrams to b, and returns their size. The checksum is that of the pseudo header: the
// kernel adds the rest if anybody asks for it.
func (e *endpoint) udpHead(b []byte, from, to netip.AddrPort, datagrams [][]byte) int {
	total := 0
	for _, d := range datagrams {
		total += len(d)
	}
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	eth := b[vnetHdrLen:]
	header.Ethernet(eth).Encode(&header.EthernetFields{SrcAddr: e.gateway, DstAddr: e.guest, Type: networkProtocol(to.Addr())})
	ip := eth[header.EthernetMinimumSize:]
	hlen := encodeIP(ip, src, dst, header.UDPMinimumSize+total)
	u := header.UDP(ip[hlen:][:header.UDPMinimumSize])
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(header.UDPMinimumSize + total)})
	u.SetChecksum(header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(header.UDPMinimumSize+total)))
	size := header.EthernetMinimumSize + hlen + header.UDPMinimumSize
	h := vnetHdr{flags: vnetNeedsCsum, hdrLen: uint16(size), csumStart: uint16(size - header.UDPMinimumSize), csumOffset: 6}
	if len(datagrams) > 1 {
		h.gsoType, h.gsoSize = vnetGSOUDPL4, uint16(len(datagrams[0]))
	}
	h.put(b)
	return vnetHdrLen + size
}

// encodeIP writes the IP header of a UDP packet with so many octets behind it, and returns its size.
func encodeIP(b []byte, src, dst tcpip.Address, payload int) int {
	if src.Len() == header.IPv4AddressSize {
		ip := header.IPv4(b[:header.IPv4MinimumSize])
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + payload),
			Flags:       header.IPv4FlagDontFragment, // so no ID is needed (RFC 6864 section 4.1)
			TTL:         defaultTTL,
			Protocol:    uint8(header.UDPProtocolNumber),
			SrcAddr:     src,
			DstAddr:     dst,
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return header.IPv4MinimumSize
	}
	header.IPv6(b[:header.IPv6MinimumSize]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(payload),
		TransportProtocol: header.UDPProtocolNumber,
		HopLimit:          defaultTTL,
		SrcAddr:           src,
		DstAddr:           dst,
	})
	return header.IPv6MinimumSize
}
