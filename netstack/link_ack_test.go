package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const ackServer = "198.51.100.7"

// guestSegment is a frame of the guest with n bytes of data from its port.
func guestSegment(port uint16, n int) []byte {
	b := make([]byte, header.TCPMinimumSize+n)
	header.TCP(b).Encode(&header.TCPFields{SrcPort: port, DstPort: 443, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck, WindowSize: 100})
	return l2(ethernet4, packet4(guest4.String(), ackServer, header.TCPProtocolNumber, nil, b))
}

// doorSegment is a segment of the door for the guest's port, as the stack hands it to the link.
func doorSegment(port uint16, ack uint32, flags header.TCPFlags, options, data int) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.EthernetMinimumSize + header.IPv4MinimumSize + header.TCPMinimumSize + options,
		Payload:            buffer.MakeWithData(make([]byte, data)),
	})
	tcp := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize + options))
	tcp.Encode(&header.TCPFields{SrcPort: 443, DstPort: port, AckNum: ack, DataOffset: uint8(len(tcp)), Flags: flags, WindowSize: 100})
	addr := func(s string) tcpip.Address { return tcpip.AddrFromSlice(netip.MustParseAddr(s).AsSlice()) }
	header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(tcp) + data), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: addr(ackServer), DstAddr: addr(guest4.String()),
	})
	pkt.LinkHeader().Push(header.EthernetMinimumSize)
	return pkt
}

// TestDelayedACKs: what is held back, what is sent at once, and what makes a held one superfluous. A step is what comes
// from the guest ("got"), goes to it ("sent"), or time that passes; the wants are the acknowledgement numbers that left.
func TestDelayedACKs(t *testing.T) {
	type step struct {
		what  string // got, ack, data, window, sack, wait
		port  uint16
		n     int // bytes of data got, or the acknowledgement number
		leave []uint32
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"one short segment waits for two ticks", []step{{"got", 1, 64, nil}, {"ack", 1, 64, nil}, {"wait", 0, 1, nil}, {"wait", 0, 1, []uint32{64}}}},
		{"the answer acknowledges", []step{{"got", 1, 64, nil}, {"ack", 1, 64, nil}, {"data", 1, 65, []uint32{65}}, {"wait", 0, 5, nil}}},
		{"the second segment's goes at once", []step{{"got", 1, 64, nil}, {"ack", 1, 64, nil}, {"got", 1, 64, nil}, {"ack", 1, 128, []uint32{128}}, {"wait", 0, 5, nil}}},
		{"a large segment's goes at once", []step{{"got", 1, 9000, nil}, {"ack", 1, 9000, []uint32{9000}}}},
		{"before any data", []step{{"ack", 1, 1, []uint32{1}}}},
		{"another flow's answer does not acknowledge", []step{{"got", 1, 64, nil}, {"ack", 1, 64, nil}, {"data", 2, 7, []uint32{7}}, {"wait", 0, 2, []uint32{64}}}},
		{"flows that share an entry are two", []step{{"got", 1, 64, nil}, {"ack", 1, 64, nil}, {"ack", 257, 5, nil}, {"wait", 0, 2, []uint32{64, 5}}}},
		{"a closed window is said at once", []step{{"got", 1, 64, nil}, {"window", 1, 64, []uint32{64}}}},
		{"holes are said at once", []step{{"got", 1, 64, nil}, {"sack", 1, 64, []uint32{64}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, left := newTestACKs()
				defer a.stop()
				for i, s := range c.steps {
					switch s.what {
					case "got":
						f := guestSegment(s.port, s.n)
						a.received(f[:min(len(f), maxHeaders)], len(f), 1500)
					case "wait":
						time.Sleep(time.Duration(s.n) * ackTick)
						synctest.Wait()
					default:
						a.send(s.what, s.port, uint32(s.n), left)
					}
					if got := left.take(); !slices.Equal(got, s.leave) {
						t.Errorf("step %d, %s: left %v, want %v", i, s.what, got, s.leave)
					}
				}
			})
		})
	}
}

// ackNumbers are those that left; the ticks are goroutines of their own.
type ackNumbers struct {
	mu   sync.Mutex
	list []uint32
}

func (a *ackNumbers) add(n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, n)
}

// take returns what left since the last call.
func (a *ackNumbers) take() []uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

// newTestACKs returns the mechanism, and where the acknowledgement numbers of what it sends by itself go.
func newTestACKs() (*delayedACKs, *ackNumbers) {
	left := new(ackNumbers)
	a := &delayedACKs{saved: func() {}}
	a.write = func(frame []byte) {
		left.add(header.TCP(frame[vnetHdrLen+header.EthernetMinimumSize+header.IPv4MinimumSize:]).AckNumber())
	}
	return a, left
}

// send does what the link does with one segment of the stack.
func (a *delayedACKs) send(what string, port uint16, ack uint32, left *ackNumbers) {
	var pkt *stack.PacketBuffer
	switch what {
	case "ack":
		pkt = doorSegment(port, ack, header.TCPFlagAck, ackOptions, 0)
	case "data":
		pkt = doorSegment(port, ack, header.TCPFlagAck|header.TCPFlagPsh, ackOptions, 10)
	case "window":
		pkt = doorSegment(port, ack, header.TCPFlagAck, ackOptions, 0)
		header.TCP(pkt.TransportHeader().Slice()).SetWindowSize(0)
	case "sack":
		pkt = doorSegment(port, ack, header.TCPFlagAck, ackOptions+12, 0)
	}
	defer pkt.DecRef()
	if !a.hold(pkt, make([]byte, vnetHdrLen)) {
		left.add(ack)
	}
}

// TestDelayedACKsBound: more flows than may wait are answered at once, and none is lost.
func TestDelayedACKsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, left := newTestACKs()
		defer a.stop()
		for port := range uint16(ackHeldMax + 5) {
			f := guestSegment(port, 10)
			a.received(f, len(f), 1500)
			a.send("ack", port, uint32(port), left)
		}
		if n := len(left.take()); n != 5 {
			t.Errorf("%d acknowledgements left at once, want the 5 beyond the bound", n)
		}
		time.Sleep(2 * ackTick)
		synctest.Wait()
		if n := len(left.take()); n != ackHeldMax {
			t.Errorf("%d acknowledgements left later, want %d", n, ackHeldMax)
		}
	})
}

// FuzzDelayedACKs: no frame that passed the filter breaks the look at it.
func FuzzDelayedACKs(f *testing.F) {
	f.Add(guestSegment(1, 10))
	f.Add(l2(ethernet4, packet4(guest4.String(), ackServer, header.TCPProtocolNumber, []byte{1, 1, 1, 0}, []byte{0})))
	check := newFilter(Config{Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6, GatewayMAC: gatewayMAC})
	f.Fuzz(func(t *testing.T, frame []byte) {
		first := frame[:min(len(frame), maxHeaders)]
		if v, _ := check.check(first, len(frame)); v == deliver {
			new(delayedACKs).received(first, len(frame), 1500)
		}
	})
}
