package netstack

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func addressOf(ap netip.AddrPort) tcpip.Address { return tcpip.AddrFromSlice(ap.Addr().AsSlice()) }

// frameWriter is an endpoint that keeps what it writes, and refuses what refuse says.
func frameWriter(t *testing.T, refuse func(h vnetHdr) error) (*Stack, *[][]byte) {
	t.Helper()
	e := &endpoint{vnet: true, counters: newCounters(), guest: tcpip.LinkAddress(guestMAC), gateway: tcpip.LinkAddress(gatewayMAC)}
	e.mtu.Store(DefaultMTU)
	e.uso.Store(true)
	frames := &[][]byte{}
	e.writev = func(_ int, iovs []unix.Iovec) (int, error) {
		var frame []byte
		for _, v := range iovs {
			frame = append(frame, iovecBytes(v)...)
		}
		if refuse != nil {
			if err := refuse(parseVnetHdr(frame)); err != nil {
				return 0, err
			}
		}
		*frames = append(*frames, frame)
		return len(frame), nil
	}
	return &Stack{link: e, counters: e.counters}, frames
}

// datagramsIn cuts frames the way that the kernel does.
func datagramsIn(t *testing.T, frames [][]byte) (got [][]byte) {
	t.Helper()
	for _, frame := range frames {
		h := parseVnetHdr(frame)
		frame = frame[vnetHdrLen:]
		hdrs, payload, ok := splitUDP(frame)
		if !ok || !h.valid(len(frame)) || h.flags != vnetNeedsCsum || int(h.csumStart) != len(hdrs)-8 || h.csumOffset != 6 || int(h.hdrLen) != len(hdrs) {
			t.Fatalf("frame %x behind %+v", frame[:min(len(frame), 64)], h)
		}
		if _, err := describeAnswer(frame); err != nil {
			t.Fatal(err)
		}
		if h.gsoType == vnetGSONone {
			got = append(got, payload)
			continue
		}
		for chunk := range slices.Chunk(payload, int(h.gsoSize)) {
			got = append(got, chunk)
		}
	}
	return got
}

// lists are sizes of datagrams and how many frames they make at an MTU of 1500.
var superDatagrams = []struct {
	sizes  []int
	frames int
}{
	{[]int{0}, 1}, {[]int{1200}, 1}, {[]int{0, 0}, 2},
	{slices.Repeat([]int{1200}, 32), 1}, {append(slices.Repeat([]int{1200}, 10), 7, 7), 2},
	{slices.Repeat([]int{1200}, 60), 2}, {slices.Repeat([]int{1}, 200), 2}, {[]int{100, 200, 200, 100, 50}, 3},
}

func TestSuperDatagrams(t *testing.T) {
	for _, from := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		for _, c := range superDatagrams {
			t.Run(fmt.Sprint(from, c.sizes), func(t *testing.T) {
				s, frames := frameWriter(t, nil)
				checkSent(t, s, frames, from, c.sizes)
				if len(*frames) != c.frames {
					t.Errorf("%d frames, want %d", len(*frames), c.frames)
				}
			})
		}
	}
}

// checkSent sends datagrams of these sizes and compares what the frames hold.
func checkSent(t *testing.T, s *Stack, frames *[][]byte, from string, sizes []int) {
	t.Helper()
	src, to := netip.MustParseAddrPort(from), netip.AddrPortFrom(guest4, 5000)
	if src.Addr().Is6() {
		to = netip.AddrPortFrom(guest6, 5000)
	}
	var want [][]byte
	for i, size := range sizes {
		want = append(want, bytes.Repeat([]byte{byte(i)}, size))
	}
	if n, err := s.sendUDPs(src, to, want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := datagramsIn(t, *frames)
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d datagrams came as %d", len(want), len(got))
	}
	for _, frame := range *frames {
		if h := header.UDP(frame[vnetHdrLen+14+udpHeaders(src.Addr())-8:]); h.SourcePort() != 443 || h.DestinationPort() != 5000 {
			t.Errorf("ports %d, %d", h.SourcePort(), h.DestinationPort())
		}
	}
}

// A device that refuses super-datagrams gets none any more; nothing is lost, and it is counted once.
func TestSuperDatagramsRefused(t *testing.T) {
	asked := 0
	s, frames := frameWriter(t, func(h vnetHdr) error {
		if h.gsoType != vnetGSONone {
			asked++
			return unix.EINVAL
		}
		return nil
	})
	for range 3 {
		*frames = nil
		checkSent(t, s, frames, "192.0.2.1:443", append(slices.Repeat([]int{1200}, 20), 1))
		if len(*frames) != 21 {
			t.Errorf("%d frames", len(*frames))
		}
	}
	if asked != 1 || s.counters.get(countUSOOff) != 1 {
		t.Errorf("asked %d times, counted %d", asked, s.counters.get(countUSOOff))
	}
}

// A datagram for which there is no room is lost and counted, and the others are sent.
func TestNoRoom(t *testing.T) {
	for _, vnet := range []bool{true, false} {
		n := 0
		s, frames := frameWriter(t, func(vnetHdr) error {
			if n++; n == 2 {
				return unix.ENOBUFS
			}
			return nil
		})
		s.link.vnet = vnet
		from, to := netip.MustParseAddrPort("192.0.2.1:443"), netip.AddrPortFrom(guest4, 5000)
		if n, err := s.sendUDPs(from, to, [][]byte{make([]byte, 1), make([]byte, 2), make([]byte, 3)}); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		if len(*frames) != 2 || s.counters.get(dropTxError) != 1 {
			t.Errorf("%d frames; %v", len(*frames), s.counters.snapshot())
		}
	}
}
