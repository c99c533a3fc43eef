//go:build linux

package gro

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// sockets returns one that receives as quic-go would have it, and one that sends to it.
func sockets(t *testing.T, network, address string) (*Conn, *net.UDPConn) {
	t.Helper()
	open := func() *net.UDPConn {
		c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	in := open()
	raw, err := in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { // what quic-go asks for
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
	g, ok := Wrap(in).(*Conn)
	if !ok {
		t.Skip("this kernel does not join packets (UDP_GRO)")
	}
	return g, open()
}

// segmented sends packets as one message that is cut into pieces of size octets.
func segmented(t *testing.T, from *net.UDPConn, to net.Addr, size int, packets ...[]byte) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h := []any{uint64(unix.CmsgLen(2)), int32(unix.IPPROTO_UDP), int32(unix.UDP_SEGMENT), uint16(size)}
	var b bytes.Buffer
	for _, v := range h {
		binary.Write(&b, binary.NativeEndian, v)
	}
	copy(oob, b.Bytes())
	if _, _, err := from.WriteMsgUDP(bytes.Join(packets, nil), oob, to.(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
}

// read takes n packets with batches as small as the test wants.
func read(t *testing.T, c *Conn, n, batch int) (packets [][]byte, calls int) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for len(packets) < n {
		ms := make([]ipv4.Message, batch)
		for i := range ms {
			ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
		}
		got, err := c.ReadBatch(ms, 0)
		if err != nil || got == 0 {
			t.Fatalf("%d packets, then %d: %v", len(packets), got, err)
		}
		calls++
		for _, m := range ms[:got] {
			packets = append(packets, m.Buffers[0][:m.N])
		}
	}
	return packets, calls
}

func packet(n, size int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }

// TestPacketsStayThemselves: whatever the kernel joins, each packet comes out whole, in its turn, and alone.
func TestPacketsStayThemselves(t *testing.T) {
	for name, address := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		for _, batch := range []int{1, 3, 8} {
			t.Run(name, func(t *testing.T) {
				c, from := sockets(t, "udp", address)
				var want [][]byte
				for n := range 14 { // as quic-go sends: packets of one size, the last one shorter
					want = append(want, packet(n, 1252))
				}
				want = append(want, packet(14, 700))
				segmented(t, from, c.LocalAddr(), 1252, want...)
				for n, size := range []int{0, 1, 1200, 1200, 33} { // and singly, empty ones included
					want = append(want, packet(100+n, size))
					from.WriteTo(want[len(want)-1], c.LocalAddr())
				}
				got, _ := read(t, c, len(want), batch)
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("packet %d has %d octets of %v, want %d", i, len(got[i]), got[i][:min(1, len(got[i]))], len(want[i]))
					}
				}
			})
		}
	}
}

// TestOneCallManyPackets: that is what it is for. A kernel that cut the message would need one call for each eight.
func TestOneCallManyPackets(t *testing.T) {
	c, from := sockets(t, "udp4", "127.0.0.1:0")
	var want [][]byte
	for n := range 40 {
		want = append(want, packet(n, 1200))
	}
	segmented(t, from, c.LocalAddr(), 1200, want...)
	if err := c.receive(0); err != nil {
		t.Fatal(err)
	}
	if len(c.came) != 1 || c.came[0].N != 40*1200 {
		t.Errorf("40 packets came as %d messages, the first of %d octets", len(c.came), c.came[0].N)
	}
}

// TestWhatIsKnownOfPackets: each packet of a message has its sender, its ECN bits and where it was sent to.
func TestWhatIsKnownOfPackets(t *testing.T) {
	c, from := sockets(t, "udp4", "127.0.0.1:0")
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, 2) })
	segmented(t, from, c.LocalAddr(), 1000, packet(1, 1000), packet(2, 1000), packet(3, 10))
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
	}
	n, err := c.ReadBatch(ms, 0)
	if n != 3 || err != nil {
		t.Fatalf("%d packets: %v", n, err)
	}
	for i, m := range ms[:n] {
		if m.Addr.String() != from.LocalAddr().String() {
			t.Errorf("packet %d is from %v, want %v", i, m.Addr, from.LocalAddr())
		}
		all, err := unix.ParseSocketControlMessage(m.OOB[:m.NN])
		if err != nil {
			t.Fatal(err)
		}
		var ecn, info bool
		for _, o := range all {
			ecn = ecn || o.Header.Level == unix.IPPROTO_IP && o.Header.Type == unix.IP_TOS && o.Data[0] == 2
			info = info || o.Header.Level == unix.IPPROTO_IP && o.Header.Type == unix.IP_PKTINFO
		}
		if !ecn || !info {
			t.Errorf("packet %d: ECN bits %v, packet info %v", i, ecn, info)
		}
	}
}

// TestLongPacket: one that is longer than the buffer loses its end, and nothing else.
func TestLongPacket(t *testing.T) {
	c, from := sockets(t, "udp4", "127.0.0.1:0")
	from.WriteTo(packet(1, 9000), c.LocalAddr())
	from.WriteTo(packet(2, 20), c.LocalAddr())
	got, _ := read(t, c, 2, 8)
	if len(got[0]) != 1452 || len(got[1]) != 20 {
		t.Errorf("packets of 9000 and 20 octets came with %d and %d", len(got[0]), len(got[1]))
	}
}

// TestEnds: deadlines and Close end a ReadBatch that waits, as they do for the socket.
func TestEnds(t *testing.T) {
	c, _ := sockets(t, "udp4", "127.0.0.1:0")
	ms := []ipv4.Message{{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, 128)}}
	c.SetReadDeadline(time.Unix(1, 0))
	if n, err := c.ReadBatch(ms, 0); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %d packets, %v", n, err)
	}
	c.SetReadDeadline(time.Time{})
	c.Close()
	if n, err := c.ReadBatch(ms, 0); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %d packets, %v", n, err)
	}
}

// FuzzSegment: whatever the kernel says, a packet has at least one octet of what there is, or there is none.
func FuzzSegment(f *testing.F) {
	f.Add([]byte{}, 100)
	f.Fuzz(func(t *testing.T, oob []byte, whole int) {
		if n := segment(oob, whole); n <= 0 && n != whole {
			t.Errorf("segments of %d octets", n)
		}
	})
}
