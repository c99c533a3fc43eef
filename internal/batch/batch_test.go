//go:build linux

package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take that happens at all.
const patience = 10 * time.Second

// udpPair is two sockets of the loopback, connected to each other.
func udpPair(t testing.TB, network string) (a, b *net.UDPConn) {
	t.Helper()
	loopback := map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network]
	at, _ := net.ResolveUDPAddr(network, loopback)
	first, err := net.ListenUDP(network, at)
	if err != nil {
		t.Fatal(err)
	}
	addr := first.LocalAddr().(*net.UDPAddr)
	b, err = net.DialUDP(network, nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	a, err = net.DialUDP(network, addr, b.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.UDPConn{a, b} {
		c.SetReadBuffer(4 << 20)
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
	}
	return a, b
}

func newSocket(t testing.TB, c net.Conn) *Socket {
	t.Helper()
	s, err := NewSocket(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sizesOf makes datagrams of these sizes, each with other contents.
func sizesOf(sizes ...int) (b [][]byte) {
	for i, size := range sizes {
		d := make([]byte, size)
		for j := range d {
			d[j] = byte(i*31 + j)
		}
		b = append(b, d)
	}
	return b
}

func repeat(n, size int) []int { return slices.Repeat([]int{size}, n) }

var errEnough = errors.New("enough")

// receiveN takes n datagrams from s.
func receiveN(s *Socket, n int) (got [][]byte, err error) {
	err = s.Receive(func(datagrams [][]byte) error {
		for _, d := range datagrams {
			got = append(got, bytes.Clone(d))
		}
		if len(got) >= n {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return got, err
}

// lists are what is sent in one call.
var lists = map[string][]int{
	"one":                     {1200},
	"empty":                   {0},
	"empty ones":              {0, 0, 0},
	"a run":                   repeat(40, 1200),
	"a run with a short tail": append(repeat(10, 1200), 1),
	"an empty one in a run":   {100, 100, 0, 100, 100},
	"larger ones later":       {100, 101, 102, 100, 100, 99, 100},
	"more than one message":   repeat(130, 500),
	"a run of one octet":      repeat(100, 1),
	"more than segments fit":  repeat(5, 30000),
	"the largest":             {65507},
	"large and small":         {65507, 1, 65507, 0, 1400, 1400},
}

func TestBoundaries(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		for name, sizes := range lists {
			t.Run(network+" "+name, func(t *testing.T) {
				a, b := udpPair(t, network)
				from, to := newSocket(t, a), newSocket(t, b)
				want := sizesOf(sizes...)
				go func() {
					n, sent, err := from.Send(want, true)
					if total := len(bytes.Join(want, nil)); n != len(want) || int(sent) != total || err != nil {
						t.Errorf("Send = %d, %d, %v; want %d, %d", n, sent, err, len(want), total)
					}
				}()
				got, err := receiveN(to, len(want))
				if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("got %d datagrams, %v", len(got), err)
				}
			})
		}
	}
}

// Whatever is sent in whatever portions arrives as it was, in order, whether the other end reads batches or not.
func TestRandomPortions(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain reader %t", plain), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			a, b := udpPair(t, "udp4")
			from, to := newSocket(t, a), newSocket(t, b)
			for round := range 200 {
				size, want := random.IntN(1500), [][]byte(nil)
				for range 1 + random.IntN(30) {
					if random.IntN(4) == 0 {
						size = random.IntN(1 + 20*random.IntN(100))
					}
					d := make([]byte, size)
					for i := range d {
						d[i] = byte(random.Uint32())
					}
					want = append(want, d)
				}
				if n, _, err := from.Send(want, true); n != len(want) || err != nil {
					t.Fatalf("round %d: Send = %d, %v", round, n, err)
				}
				var got [][]byte
				var err error
				if !plain {
					got, err = receiveN(to, len(want))
				}
				for buf := make([]byte, MaxSize); plain && len(got) < len(want) && err == nil; {
					var n int
					n, err = b.Read(buf)
					got = append(got, bytes.Clone(buf[:n]))
				}
				if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
					t.Fatalf("round %d: got %d of %d datagrams, %v", round, len(got), len(want), err)
				}
			}
		})
	}
}

// refusing stands for a kernel that answers messages with errno when they are what pred says.
func refusing(errno syscall.Errno, pred func(segments bool, size int) bool) func(uintptr, []message, int) (int, syscall.Errno) {
	return func(fd uintptr, m []message, flags int) (int, syscall.Errno) {
		for i := range m {
			size := 0
			for _, v := range unsafeIovecs(m[i].hdr) {
				size += int(v.Len)
			}
			if pred(m[i].hdr.Controllen > 0, size) {
				if i == 0 {
					return -1, errno
				}
				return sendmmsg(fd, m[:i], flags)
			}
		}
		return sendmmsg(fd, m, flags)
	}
}

func TestRefusedSegments(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.EIO, unix.EMSGSIZE, unix.EOPNOTSUPP} {
		t.Run(errno.Error(), func(t *testing.T) {
			a, b := udpPair(t, "udp4")
			stats := &Stats{}
			from, err := NewSocket(a, stats)
			if err != nil {
				t.Fatal(err)
			}
			from.sys.send = refusing(errno, func(segments bool, size int) bool { return segments })
			want := sizesOf(append(repeat(30, 1000), 999, 5, 5)...)
			n, _, err := from.Send(want, true)
			if n != len(want) || err != nil {
				t.Fatalf("Send = %d, %v", n, err)
			}
			if got, err := receiveN(newSocket(t, b), len(want)); err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("got %d datagrams, %v", len(got), err)
			}
			if stats.Refused.Load() == 0 || stats.Refused.Load() > 3 || stats.Lost.Load() != 0 {
				t.Errorf("%d refused, %d lost", stats.Refused.Load(), stats.Lost.Load())
			}
		})
	}
}

// A kernel without UDP_SEGMENT would send a run as one datagram: it is never asked to.
func TestNoSegmentation(t *testing.T) {
	a, b := udpPair(t, "udp4")
	from := newSocket(t, a)
	from.segment.Store(0)
	from.sys.send = refusing(unix.EINVAL, func(segments bool, size int) bool {
		if segments {
			t.Error("asked for segments")
		}
		return false
	})
	want := sizesOf(repeat(30, 1000)...)
	from.Send(want, true)
	if got, err := receiveN(newSocket(t, b), len(want)); err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("got %d datagrams, %v", len(got), err)
	}
}

// What does not fit is lost, counted, and not taken for sent; what comes behind it is sent.
func TestLost(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EMSGSIZE, unix.ENOBUFS} {
		t.Run(errno.Error(), func(t *testing.T) {
			a, b := udpPair(t, "udp4")
			stats := &Stats{}
			from, _ := NewSocket(a, stats)
			from.sys.send = refusing(errno, func(segments bool, size int) bool { return !segments && size == 77 })
			d := sizesOf(50, 77, 200)
			n, sent, err := from.Send(d, true)
			if n != 3 || sent != 250 || err != nil || stats.Lost.Load() != 1 {
				t.Errorf("Send = %d, %d, %v; %d lost", n, sent, err, stats.Lost.Load())
			}
			if got, err := receiveN(newSocket(t, b), 2); err != nil || !slices.EqualFunc(got, [][]byte{d[0], d[2]}, bytes.Equal) {
				t.Errorf("got %d datagrams, %v", len(got), err)
			}
		})
	}
}

// More than UDP carries is lost, too, and the kernel is who says so.
func TestTooLarge(t *testing.T) {
	a, b := udpPair(t, "udp4")
	stats := &Stats{}
	from, _ := NewSocket(a, stats)
	if n, sent, err := from.Send(sizesOf(65508, 3), true); n != 2 || sent != 3 || err != nil || stats.Lost.Load() != 1 {
		t.Errorf("Send = %d, %d, %v; %d lost", n, sent, err, stats.Lost.Load())
	}
	if got, err := receiveN(newSocket(t, b), 1); err != nil || len(got[0]) != 3 {
		t.Errorf("got %v, %v", got, err)
	}
}

// What was sent as one message comes joined, and is parted.
func TestJoined(t *testing.T) {
	a, b := udpPair(t, "udp4")
	from, to := newSocket(t, a), newSocket(t, b)
	most := 0
	to.sys.receive = func(fd uintptr, m []message, flags int) (int, syscall.Errno) {
		n, errno := recvmmsg(fd, m, flags)
		for i := range max(n, 0) {
			most = max(most, int(m[i].n))
		}
		return n, errno
	}
	if err := unix.SetsockoptInt(fdOf(t, b), unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		t.Skipf("no UDP_GRO here: %v", err)
	}
	want := sizesOf(append(repeat(19, 1000), 10)...)
	from.Send(want, true)
	got, err := receiveN(to, len(want))
	if err != nil || !slices.EqualFunc(got, want, bytes.Equal) || most != 19010 {
		t.Errorf("got %d datagrams, %v; the largest message has %d octets", len(got), err, most)
	}
}

// fdOf is the descriptor of c, which stays open for as long as c.
func fdOf(t *testing.T, c *net.UDPConn) (fd int) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(f uintptr) { fd = int(f) })
	return fd
}

// Without leave to wait, Send says how far it came.
func TestSendDoesNotWait(t *testing.T) {
	a, _ := udpPair(t, "udp4")
	from := newSocket(t, a)
	calls := 0
	from.sys.send = func(fd uintptr, m []message, flags int) (int, syscall.Errno) {
		if calls++; calls == 2 {
			return -1, unix.EAGAIN
		}
		return sendmmsg(fd, m[:1], flags)
	}
	if n, sent, err := from.Send(sizesOf(1, 2, 3), false); n != 1 || sent != 1 || err != nil {
		t.Errorf("Send = %d, %d, %v", n, sent, err)
	}
	calls = 0
	if n, sent, err := from.Send(sizesOf(1, 2, 3), true); n != 3 || sent != 6 || err != nil {
		t.Errorf("Send that waits = %d, %d, %v", n, sent, err)
	}
}

func TestClosedPort(t *testing.T) {
	a, b := udpPair(t, "udp4")
	b.Close()
	s := newSocket(t, a)
	s.Send(sizesOf(1), true)
	if err := s.Receive(func([][]byte) error { return nil }); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Receive = %v", err)
	}
	s.Send(sizesOf(1), true)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n, _, err := s.Send(sizesOf(1), true); err != nil {
			if n != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Send = %d, %v", n, err)
			}
			return
		}
	}
	t.Error("Send never failed")
}

func TestReceiveEnds(t *testing.T) {
	a, _ := udpPair(t, "udp4")
	s := newSocket(t, a)
	a.SetReadDeadline(time.Now().Add(-time.Second))
	if err := s.Receive(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	a.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() { done <- s.Receive(nil) }()
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, _, err := s.Send(sizesOf(1), true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send to a closed one: %v", err)
	}
}

// Await comes back when there is a datagram, an empty one or an error, and leaves it there.
func TestAwait(t *testing.T) {
	a, b := udpPair(t, "udp4")
	buf := make([]byte, 10)
	for _, size := range []int{3, 0} {
		go a.Write(make([]byte, size))
		if err := Await(b); err != nil {
			t.Fatal(err)
		}
		b.SetReadDeadline(time.Now().Add(patience))
		if n, err := b.Read(buf); n != size || err != nil {
			t.Errorf("Read = %d, %v", n, err)
		}
	}
	b.SetReadDeadline(time.Now().Add(-time.Second))
	if err := Await(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	b.Close()
	a.Write([]byte("x"))
	if err := Await(a); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Read = %v", err)
	}
}

func TestNoSocket(t *testing.T) {
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, c := range []net.Conn{one, tcp} {
		if _, err := NewSocket(c, nil); !errors.Is(err, ErrNoSocket) {
			t.Errorf("%T: %v", c, err)
		}
	}
}

// FuzzRun holds Run to what it says.
func FuzzRun(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 1, 1}, uint16(100), uint16(1000), uint8(10))
	f.Add([]byte{5, 5, 5, 4, 5}, uint16(5), uint16(19), uint8(3))
	f.Add([]byte{5, 0}, uint16(0), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, sizes []byte, segment, total uint16, count uint8) {
		if len(sizes) == 0 {
			return
		}
		var b [][]byte
		for _, s := range sizes {
			b = append(b, make([]byte, s))
		}
		n, sum := Run(b, Limits{int(segment), int(total), int(count)})
		if n < 1 || n > len(b) || sum != len(bytes.Join(b[:n], nil)) {
			t.Fatalf("Run = %d, %d", n, sum)
		}
		if n == 1 {
			return
		}
		if n > int(count) || sum > int(total) || len(b[0]) > int(segment) {
			t.Fatal("over a limit")
		}
		for _, d := range b[:n-1] {
			if len(d) != len(b[0]) {
				t.Fatal("sizes differ")
			}
		}
		if last := len(b[n-1]); last == 0 || last > len(b[0]) {
			t.Fatal("the tail does not fit")
		}
	})
}

// Datagrams that lie one behind the other are one element, and all elements together are the datagrams.
func TestIovecs(t *testing.T) {
	memory := make([]byte, 100)
	for i := range memory {
		memory[i] = byte(i)
	}
	v := Iovecs(nil, [][]byte{memory[0:10], memory[10:20], {}, memory[20:21], memory[30:40], memory[5:7]})
	var lens []uint64
	for _, e := range v {
		lens = append(lens, uint64(e.Len))
	}
	if !slices.Equal(lens, []uint64{21, 10, 2}) {
		t.Errorf("lengths %v", lens)
	}
}

func BenchmarkPump(b *testing.B) {
	x, y := udpPair(b, "udp4")
	from, to := newSocket(b, x), newSocket(b, y)
	list := sizesOf(repeat(32, 1200)...)
	binary.BigEndian.PutUint64(list[0], 1)
	b.SetBytes(32 * 1200)
	b.ReportAllocs()
	for b.Loop() {
		x.SetDeadline(time.Time{})
		y.SetDeadline(time.Now().Add(patience))
		from.Send(list, true)
		if _, err := receiveN(to, len(list)); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}
