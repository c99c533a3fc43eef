package netstack

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// piece4 and piece6 are frames with one fragment of a UDP datagram: size octets at offset.
func piece4(id uint16, offset, size int, more bool) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+size)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(guestMAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	fields := &header.IPv4Fields{TotalLength: uint16(len(ip)), ID: id, TTL: 64, Protocol: uint8(header.UDPProtocolNumber), FragmentOffset: uint16(offset),
		SrcAddr: tcpip.AddrFrom4(guest4.As4()), DstAddr: tcpip.AddrFrom4([4]byte{192, 0, 2, 1})}
	if more {
		fields.Flags = header.IPv4FlagMoreFragments
	}
	ip.Encode(fields)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

func piece6(id uint32, offset, size int, more bool) []byte {
	ip := make([]byte, header.IPv6MinimumSize+header.IPv6FragmentHeaderSize+size)
	header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(len(ip) - header.IPv6MinimumSize), TransportProtocol: header.IPv6FragmentHeader,
		HopLimit: 64, SrcAddr: tcpip.AddrFrom16(guest6.As16()), DstAddr: tcpip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 1})})
	h := ip[header.IPv6MinimumSize:]
	h[0] = uint8(header.UDPProtocolNumber)
	binary.BigEndian.PutUint16(h[2:], uint16(offset))
	if more {
		h[3] |= 1
	}
	binary.BigEndian.PutUint32(h[4:], id)
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(ip))
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(guestMAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: header.IPv6ProtocolNumber})
	return append(frame, ip...)
}

func TestFragmentBounds(t *testing.T) {
	for family, make := range map[string]func(id, offset, size int, more bool) []byte{
		"IPv4": func(id, offset, size int, more bool) []byte { return piece4(uint16(id), offset, size, more) },
		"IPv6": func(id, offset, size int, more bool) []byte { return piece6(uint32(id), offset, size, more) },
	} {
		t.Run(family, func(t *testing.T) {
			now := time.Unix(0, 0)
			f := newFragments()
			f.now = func() time.Time { return now }
			want := func(what, drop string, frame []byte) {
				t.Helper()
				if got := f.check(frame[:min(len(frame), maxHeaders)]); got != drop {
					t.Errorf("%s: %q, want %q", what, got, drop)
				}
			}
			want("a whole datagram", "", make(1, 0, 100, false))
			for i := range 45 { // the largest datagram over an MTU of 1500
				want("a large datagram", "", make(2, 1456*i, 1456, i < 44))
			}
			if len(f.parts) != 0 {
				t.Fatalf("%d are incomplete", len(f.parts))
			}
			for i := range maxFragments {
				want("small pieces", "", make(3, 8*i, 8, true))
			}
			want("one more piece", dropFragments, make(3, 8*maxFragments, 8, true))
			want("its end", dropFragments, make(3, 8*maxFragments, 8, false))
			for i := range maxIncomplete - 1 {
				want("another datagram", "", make(4+i, 8, 8, true))
			}
			want("one datagram more", dropIncomplete, make(1000, 8, 8, true))
			now = now.Add(fragmentQuiet / 2)
			want("one that is there", "", make(4, 16, 8, true))
			now = now.Add(fragmentQuiet / 2)
			want("when the others are quiet", "", make(1001, 8, 8, true))
			if len(f.parts) != 2 {
				t.Errorf("%d are incomplete, want the one that goes on and the new one", len(f.parts))
			}
			for i := range maxFragments - 2 {
				want("small pieces of one that went on", "", make(4, 24+8*i, 8, true))
			}
			want("one more piece", dropFragments, make(4, 8, 8, true))
			now = now.Add(fragmentTimeout6)
			want("later", "", make(4, 8, 8, true))
		})
	}
}

// A datagram that is whole by its sum, because a piece came twice, is not whole.
func TestFragmentsCountOnce(t *testing.T) {
	f := newFragments()
	for _, frame := range [][]byte{piece4(1, 0, 8, true), piece4(1, 0, 8, true), piece4(1, 16, 8, false)} {
		f.check(frame)
	}
	if len(f.parts) != 1 {
		t.Error("the hole in the middle was not seen")
	}
}

// TestFragmentFlood: whatever comes in pieces, the stack holds a bounded number of them, and still works.
func TestFragmentFlood(t *testing.T) {
	arrived := make(chan flow.Arrival, 1)
	g := newGuest(t, Limits{}, handlerOf(func(_ context.Context, a flow.Arrival) { arrived <- a }))
	for i := range 20000 {
		g.file.Write(piece4(uint16(i%500), 8*(1+i/500), 8, true))
	}
	c := g.dialUDP(t, "192.0.2.9:9")
	c.Write([]byte("still here"))
	if a := <-arrived; a.Dst.Port() != 9 {
		t.Errorf("arrived %v", a.Dst)
	}
	if n := g.Counters()[dropIncomplete]; n < 1000 {
		t.Errorf("%d dropped because of the table", n)
	}
}
