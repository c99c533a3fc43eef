package netstack

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// countACKSaved counts acknowledgements that later segments of their flows made superfluous.
const countACKSaved = "ack-saved"

// Bounds of delayed acknowledgements.
const (
	ackTick    = time.Millisecond // one is sent in the second tick after it was held back
	ackHeldMax = 32               // how many are held at once; others are sent at once
	ackFrame   = vnetHdrLen + header.EthernetMinimumSize + header.IPv6MinimumSize + header.TCPMinimumSize + ackOptions
	ackOptions = 12 // a timestamp, padded: whatever has more than that says something that is not to wait, SACK for one
)

// delayedACKs holds acknowledgements back for a moment (RFC 1122 section 4.2.3.2, RFC 5681 section 4.2): gVisor sends one
// for every segment at once, but a short request is mostly followed by its answer, which acknowledges it as well. A frame
// less is a seventh of what a round trip costs.
//
// What is held back is one pure acknowledgement of one segment that was no larger than the MTU. With the second one the
// flow's newest goes out, with any other segment of the flow the held one is forgotten, and a tick sends what is left.
type delayedACKs struct {
	write func(frame []byte)
	saved func()

	// short tells of each flow, by the low bits of the guest's port, whether the last segment with data was short. Two flows
	// that share an entry cost each other a tick at most.
	short [256]atomic.Bool

	mu    sync.Mutex
	held  []heldACK
	timer *time.Timer
	armed bool
}

// heldACK is a frame, its virtio-net header included where the link has one.
type heldACK struct {
	ports uint32 // both, as they stand in the segment
	size  int
	vnet  int  // where Ethernet begins
	old   bool // it has seen a tick
	frame [ackFrame]byte
}

// received notes what kind of segment the guest sent. first is the beginning of a frame of size bytes that passed the
// filter.
func (a *delayedACKs) received(first []byte, size, mtu int) {
	l3 := header.EthernetMinimumSize
	hlen := header.IPv6MinimumSize
	switch etherType(first) {
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(first[l3:])
		if hlen = int(ip.HeaderLength()); ip.TransportProtocol() != header.TCPProtocolNumber {
			return
		}
	case header.IPv6ProtocolNumber:
		if header.IPv6(first[l3:]).NextHeader() != uint8(header.TCPProtocolNumber) {
			return
		}
	default:
		return
	}
	l4 := l3 + hlen
	if len(first) < l4+header.TCPMinimumSize {
		return
	}
	tcp := header.TCP(first[l4:])
	if size > l4+int(tcp.DataOffset()) {
		a.short[tcp.SourcePort()&0xff].Store(size <= mtu+header.EthernetMinimumSize)
	}
}

// hold takes an acknowledgement that may wait, and reports whether it did. What it held of the same flow is superseded:
// every later segment says the same and more.
func (a *delayedACKs) hold(pkt *stack.PacketBuffer, vnet []byte) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize {
		return false
	}
	pure := pkt.Data().Size() == 0 && tcp.Flags() == header.TCPFlagAck && int(tcp.DataOffset()) <= header.TCPMinimumSize+ackOptions && tcp.WindowSize() > 0
	ports := binary.BigEndian.Uint32(tcp)
	a.mu.Lock()
	defer a.mu.Unlock()
	superseded := a.forget(ports, pkt)
	if !pure || superseded || len(a.held) == ackHeldMax || !a.short[tcp.DestinationPort()&0xff].Load() {
		return false
	}
	h := heldACK{ports: ports, vnet: len(vnet)}
	h.size = copy(h.frame[:], vnet)
	for _, b := range pkt.AsSlices() {
		if h.size+len(b) > len(h.frame) {
			return false
		}
		h.size += copy(h.frame[h.size:], b)
	}
	a.held = append(a.held, h)
	a.arm()
	return true
}

// forget drops what is held of the packet's flow.
func (a *delayedACKs) forget(ports uint32, pkt *stack.PacketBuffer) bool {
	for i := range a.held {
		h := &a.held[i]
		if h.ports == ports && bytes.Equal(h.addresses(), addresses(pkt.NetworkHeader().Slice())) {
			last := len(a.held) - 1
			a.held[i] = a.held[last]
			a.held = a.held[:last]
			a.saved()
			return true
		}
	}
	return false
}

// addresses are source and destination of an IP header.
func addresses(ip []byte) []byte {
	if header.IPVersion(ip) == header.IPv4Version {
		return ip[12:20]
	}
	return ip[8:40]
}

func (h *heldACK) addresses() []byte { return addresses(h.frame[h.vnet+header.EthernetMinimumSize:]) }

// arm starts the timer. The caller holds a.mu.
func (a *delayedACKs) arm() {
	switch {
	case a.armed:
		return
	case a.timer == nil:
		a.timer = time.AfterFunc(ackTick, a.tick)
	default:
		a.timer.Reset(ackTick)
	}
	a.armed = true
}

// tick sends what has been held since before the last one.
func (a *delayedACKs) tick() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.armed = false
	kept := a.held[:0]
	for i := range a.held {
		h := a.held[i]
		if h.old {
			a.write(h.frame[:h.size])
			continue
		}
		h.old = true
		kept = append(kept, h)
	}
	if a.held = kept; len(kept) > 0 {
		a.arm()
	}
}

// stop ends the ticking.
func (a *delayedACKs) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = nil
	if a.timer != nil {
		a.timer.Stop()
	}
}
