package netstack

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// countGSOOff counts the device's refusal of a large segment: 1 once offload is off.
	countGSOOff = "gso-disabled"
	// countSegmented counts packets that were cut in software because the device does not do it.
	countSegmented = "gso-segmented-in-software"
	dropTxFull     = "drop-tx-full"  // the device took nothing for txWait
	dropTxError    = "drop-tx-error" // the device is down or refused the frame
)

// txWait bounds how long one write waits for a full device. TCP repairs the loss; waiting longer would hold up the
// goroutine that reads.
const txWait = 100 * time.Millisecond

// writevFunc writes one frame; tests put a failing one in its place.
type writevFunc func(fd int, iovs []unix.Iovec) (int, error)

// txScratch is what describes one frame to the kernel.
type txScratch struct {
	hdr  [vnetHdrLen]byte
	iovs []unix.Iovec
}

var txScratches = sync.Pool{New: func() any { return new(txScratch) }}

func (tx *txScratch) free() {
	clear(tx.iovs)
	tx.iovs = tx.iovs[:0]
	txScratches.Put(tx)
}

// WritePackets implements stack.LinkWriter. Frames that the device does not take are dropped and counted; the sender is
// not told, as on any network.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		if isSynAck(pkt) {
			pkt.IncRef()
			go e.writeSynAck(pkt)
			continue
		}
		e.writePacket(pkt)
	}
	return pkts.Len(), nil
}

// writeSynAck writes the second packet of a handshake. gVisor sends it with the endpoint locked, and the client's answer is
// there before the write has returned: the goroutine that processes it would spin for the lock, for as long as the program
// inside, which has its connection now, keeps this one off the processor. On a goroutine of its own the write holds up nobody.
func (e *endpoint) writeSynAck(pkt *stack.PacketBuffer) {
	defer pkt.DecRef()
	e.writePacket(pkt)
}

// isSynAck reports whether pkt is a TCP segment with SYN and ACK.
func isSynAck(pkt *stack.PacketBuffer) bool {
	const both = header.TCPFlagSyn | header.TCPFlagAck
	tcp := header.TCP(pkt.TransportHeader().Slice())
	return pkt.TransportProtocolNumber == header.TCPProtocolNumber && len(tcp) >= header.TCPMinimumSize && tcp.Flags()&both == both
}

// writePacket sends one packet in one writev: virtio-net header, headers, payload.
func (e *endpoint) writePacket(pkt *stack.PacketBuffer) {
	large := pkt.GSOOptions.Type != stack.GSONone && pkt.Data().Size() > int(pkt.GSOOptions.MSS)
	if large && !e.gso.Load() {
		e.writeSegments(pkt)
		return
	}
	tx := txScratches.Get().(*txScratch)
	var vnet []byte
	if e.vnet {
		vnet = tx.hdr[:]
		gsoHeader(pkt, large).put(vnet)
		tx.iovs = append(tx.iovs, iovec(vnet))
	}
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber && e.acks.hold(pkt, vnet) {
		tx.free()
		return
	}
	for _, b := range pkt.AsSlices() {
		if len(b) > 0 {
			tx.iovs = append(tx.iovs, iovec(b))
		}
	}
	err := e.writeFrame(tx.iovs)
	tx.free()
	if large && errors.Is(err, unix.EINVAL) {
		e.disableGSO()
		e.writeSegments(pkt)
		return
	}
	e.countTx(err)
}

// gsoHeader says what the kernel is to do with pkt: finish its checksum, and cut it when it is large.
func gsoHeader(pkt *stack.PacketBuffer, large bool) vnetHdr {
	gso := pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return vnetHdr{}
	}
	h := vnetHdr{hdrLen: uint16(pkt.HeaderSize())}
	if gso.NeedsCsum {
		h.flags = vnetNeedsCsum
		h.csumStart = header.EthernetMinimumSize + gso.L3HdrLen
		h.csumOffset = gso.CsumOffset
	}
	if large {
		h.gsoType, h.gsoSize = vnetGSOTCPv4, gso.MSS
		if gso.Type == stack.GSOTCPv6 {
			h.gsoType = vnetGSOTCPv6
		}
	}
	return h
}

// disableGSO stops offering large segments to connections yet to come; those that live are cut in software from now on.
// Some kernels refuse segments whose tail is shorter than the others (Linux 6.6.44, 6.1.x).
func (e *endpoint) disableGSO() {
	if e.gso.CompareAndSwap(true, false) {
		e.counters.add(countGSOOff, 1)
	}
}

// writeIP sends one IP or ARP packet, given in parts, that the stack knows nothing of.
func (e *endpoint) writeIP(proto tcpip.NetworkProtocolNumber, parts ...[]byte) error {
	var hdr [vnetHdrLen + header.EthernetMinimumSize]byte
	eth := hdr[vnetHdrLen:]
	header.Ethernet(eth).Encode(&header.EthernetFields{SrcAddr: e.gateway, DstAddr: e.guest, Type: proto})
	prefix := eth
	if e.vnet {
		prefix = hdr[:]
	}
	iovs := append(make([]unix.Iovec, 0, 4), iovec(prefix))
	for _, b := range parts {
		if len(b) > 0 {
			iovs = append(iovs, iovec(b))
		}
	}
	err := e.writeFrame(iovs)
	e.countTx(err)
	return err
}

// writeFrame writes one frame, waiting up to txWait for a device that is full.
func (e *endpoint) writeFrame(iovs []unix.Iovec) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return unix.EBADF
	}
	deadline := time.Time{}
	for {
		_, err := e.writev(e.fd, iovs)
		switch {
		case err == unix.EINTR:
			continue
		case err != unix.EAGAIN:
			return err
		case deadline.IsZero():
			deadline = time.Now().Add(txWait)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return unix.EAGAIN
		}
		unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
	}
}

// countTx counts a frame that did not leave.
func (e *endpoint) countTx(err error) {
	switch {
	case err == nil:
	case errors.Is(err, unix.EAGAIN):
		e.counters.add(dropTxFull, 1)
	default:
		e.counters.add(dropTxError, 1)
	}
}
