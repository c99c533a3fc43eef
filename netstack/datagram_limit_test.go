package netstack

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// sizes is a sink that keeps how long datagrams were.
type sizes struct{ got chan int }

func (s sizes) TryBatch(datagrams [][]byte) (int, error) {
	return len(datagrams), s.WriteBatch(datagrams)
}

func (s sizes) WriteBatch(datagrams [][]byte) error {
	for _, d := range datagrams {
		s.got <- len(d)
	}
	return nil
}

func (s sizes) next(t *testing.T) int {
	t.Helper()
	select {
	case n := <-s.got:
		return n
	case <-time.After(patience):
		t.Fatal("nothing came")
		return 0
	}
}

// limitedDoor is a door in front of a kernel whose flows have a path for datagrams of limit octets.
func limitedDoor(t *testing.T, limit *atomic.Int64) (*Stack, sizes) {
	sink := sizes{make(chan int, 1000)}
	s := newKernelDoor(t, handlerFunc(func(_ context.Context, a flow.Arrival) {
		conn, err := a.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.(flow.Limiter).LimitDatagrams(func() int { return int(limit.Load()) })
		conn.(flow.BatchConn).Forward(sink)
	}))
	return s, sink
}

// discover sets how a socket finds out about the path's MTU: unix.IP_PMTUDISC_WANT is what sockets begin with.
func discover(t *testing.T, c *net.UDPConn, v6 bool, how int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, how)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, how)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKernelTooBig: a real kernel learns from the door how long the path's datagrams may be. A socket that never has its
// datagrams cut gets EMSGSIZE, one of the ordinary kind goes on in fragments, which come whole; a socket that says that its
// datagrams may be cut never hears of it.
func TestKernelTooBig(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	var limit atomic.Int64
	limit.Store(1300)
	s, sink := limitedDoor(t, &limit)
	for i, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
		v6 := host[0] == '['
		dial := func(port string) *net.UDPConn {
			c, err := net.Dial("udp", host+":"+port)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			c.Write([]byte("x"))
			sink.next(t)
			return c.(*net.UDPConn)
		}
		before := s.Counters()[countTooBig]
		cut, strict, ordinary := dial("1"), dial("2"), dial("3")
		if !v6 {
			discover(t, cut, v6, unix.IP_PMTUDISC_DONT)
			cut.Write(make([]byte, 1400))
			if n := sink.next(t); n != 1400 {
				t.Errorf("%s: %d octets that may be cut came as %d", host, 1400, n)
			}
		}
		discover(t, strict, v6, unix.IP_PMTUDISC_DO)
		strict.Write(make([]byte, 1300))
		if n := sink.next(t); n != 1300 {
			t.Errorf("%s: %d octets came as %d", host, 1300, n)
		}
		strict.Write(make([]byte, 1301))
		eventually(t, "the kernel refuses", func() bool {
			_, err := strict.Write(make([]byte, 1301))
			return errors.Is(err, syscall.EMSGSIZE)
		})
		// The kernel knows the path now, for all its sockets: what an ordinary one sends is cut, and comes whole.
		ordinary.Write(make([]byte, 1400))
		if n := sink.next(t); n != 1400 {
			t.Errorf("%s: 1400 octets in fragments came as %d", host, n)
		}
		if s.Counters()[countTooBig] == before || s.Counters()[countTooBigSent] < uint64(i+1) {
			t.Errorf("%s: counters %v", host, s.Counters())
		}
	}
}

// TestKernelTooBigOrdinary: an ordinary socket, which is the first to find out, loses one datagram and goes on.
func TestKernelTooBigOrdinary(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	var limit atomic.Int64
	limit.Store(1300)
	s, sink := limitedDoor(t, &limit)
	c, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	sink.next(t)
	c.Write(make([]byte, 1400))
	eventually(t, "the program is told", func() bool { return s.Counters()[countTooBigSent] == 1 })
	eventually(t, "it goes on in fragments", func() bool {
		c.Write(make([]byte, 1401))
		select {
		case n := <-sink.got:
			return n == 1401
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	// The path gets better: nobody is told, and what comes is delivered.
	limit.Store(1472)
	c.Write(make([]byte, 1472))
	eventually(t, "it comes", func() bool { return sink.next(t) == 1472 })
}

// TestKernelTooBigSegments: datagrams that a program gives to its kernel in one piece are told apart: the last one may fit.
func TestKernelTooBigSegments(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	var limit atomic.Int64
	limit.Store(1300)
	s, sink := limitedDoor(t, &limit)
	c, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	discover(t, c.(*net.UDPConn), false, unix.IP_PMTUDISC_PROBE) // DF, whatever the kernel knows of the path
	c.Write([]byte("x"))
	sink.next(t)
	raw, _ := c.(*net.UDPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1400)
	})
	if err != nil {
		t.Skipf("no segmentation of UDP: %v", err)
	}
	if _, err := c.Write(make([]byte, 5*1400+700)); err != nil {
		t.Fatal(err)
	}
	if n := sink.next(t); n != 700 {
		t.Errorf("%d octets came, want the last datagram with 700", n)
	}
	if n := s.Counters()[countTooBig]; n != 5 {
		t.Errorf("%d datagrams were too big, want 5", n)
	}
	if n := s.Counters()[countTooBigSent]; n != 1 {
		t.Errorf("the program was told %d times, want once in a second", n)
	}
}

// TestTooLong: what is too long for which path, and what the program is told.
func TestTooLong(t *testing.T) {
	for _, c := range []struct {
		name      string
		dst       string
		limit     int
		size, mtu int
		tooLong   bool
	}{
		{"fits", "192.0.2.1:9", 1415, 1415, 1443, false},
		{"does not fit", "192.0.2.1:9", 1415, 1416, 1443, true},
		{"IPv6", "[2001:db8::1]:9", 1415, 1416, 1463, true},
		{"no datagrams at all", "192.0.2.1:9", 0, 1416, 0, false},
		{"IPv6 has no smaller MTU than 1280", "[2001:db8::1]:9", 1163, 1232, 1280, false},
		{"IPv6 above 1280", "[2001:db8::1]:9", 1163, 1233, 1280, true},
		{"IPv4 has no smaller MTU than 552", "192.0.2.1:9", 100, 524, 552, false},
		{"IPv4 above 552", "192.0.2.1:9", 100, 525, 552, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &datagramFlow{key: datagramKey{dst: netip.MustParseAddrPort(c.dst)}}
			if _, tooLong := f.tooLong(65507); tooLong {
				t.Error("too long where there is no limit")
			}
			f.LimitDatagrams(func() int { return c.limit })
			if mtu, tooLong := f.tooLong(c.size); tooLong != c.tooLong || mtu != c.mtu {
				t.Errorf("%d octets: MTU %d, too long %v", c.size, mtu, tooLong)
			}
		})
	}
}

// udpDatagram is a UDP header with so many octets behind it.
func udpDatagram(src, dst uint16, size int) []byte {
	b := make([]byte, header.UDPMinimumSize+size)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: src, DstPort: dst, Length: uint16(len(b))})
	return b
}

// TestCutQuote: the quote of a super-datagram is that of its first datagram.
func TestCutQuote(t *testing.T) {
	for _, c := range []struct{ whole, want []byte }{
		{packet4("10.77.0.2", "192.0.2.1", 17, nil, udpDatagram(5, 9, 7000))[:28], packet4("10.77.0.2", "192.0.2.1", 17, nil, udpDatagram(5, 9, 1400))[:28]},
		{packet6("fd77::2", "2001:db8::1", 17, udpDatagram(5, 9, 7000))[:48], packet6("fd77::2", "2001:db8::1", 17, udpDatagram(5, 9, 1400))[:48]},
	} {
		got := slices.Clone(c.whole)
		cutQuote(got, len(got)-8, 1400)
		if !bytes.Equal(got, c.want) {
			t.Errorf("quote %x, want %x", got, c.want)
		}
	}
}
