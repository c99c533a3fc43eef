//go:build linux

package tproxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// In a namespace where every address is local a program can have sockets at addresses of others. These are no way around the
// door, nor into it.

// eventually asks until the answer is yes, or it has been no for long; what the test finds then is what it says.
func eventually(yes func() bool) {
	for end := time.Now().Add(5 * time.Second); !yes() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// TestForeignListener: who listens at somebody else's address is not called in their stead.
func TestForeignListener(t *testing.T) {
	_, h := serve(t, Limits{})
	ln, err := net.Listen("tcp", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.DialTimeout("tcp", "198.51.100.10:7", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := ln.Accept(); err == nil {
		t.Errorf("the program's own listener got a connection from %s", got.RemoteAddr())
	}
	eventually(func() bool { return len(h.arrivals()) == 1 })
	if list := h.arrivals(); len(list) != 1 || list[0].Dst.String() != "198.51.100.10:7" {
		t.Errorf("arrivals %+v", list)
	}
}

// TestStolenSocket: a socket like that of a flow gets the program nothing but the loss of its own datagrams.
func TestStolenSocket(t *testing.T) {
	_, h := serve(t, Limits{})
	reuse := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return err
	}}
	own, err := net.ListenPacket("udp4", "10.77.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	foreign := netip.MustParseAddrPort("198.51.100.10:7")
	pc, err := reuse.ListenPacket(t.Context(), "udp4", foreign.String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	raw, err := pc.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Connect(int(fd), sockaddr(addrPort(own.LocalAddr()))) })
	if err != nil {
		t.Fatal(err)
	}
	own.WriteTo([]byte("to myself, as somebody else"), net.UDPAddrFromAddrPort(foreign))
	pc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _, err := pc.ReadFrom(make([]byte, 64)); err == nil {
		t.Errorf("%d octets went past the door", n)
	}
	for _, a := range h.arrivals() {
		if a.Dst != foreign {
			t.Errorf("arrival for %s", a.Dst)
		}
	}
}

// TestListenerHit: the door's own listeners are a destination like any other, from whatever port.
func TestListenerHit(t *testing.T) {
	_, h := serve(t, Limits{})
	var want []string
	for _, to := range []string{"10.77.0.1:1077", "[fd77::1]:1077"} {
		for _, network := range []string{"tcp", "udp"} {
			c, err := net.DialTimeout(network, to, 2*time.Second)
			if err != nil {
				t.Fatalf("dial %s %s: %v", network, to, err)
			}
			defer c.Close()
			c.Write([]byte("x"))
			want = append(want, network+" "+to)
		}
	}
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, 2), Port: 1077}, Timeout: 2 * time.Second}
	c, err := from.Dial("tcp", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want = append(want, "tcp 198.51.100.10:7")
	eventually(func() bool { return len(h.arrivals()) >= len(want) })
	var got []string
	for _, a := range h.arrivals() {
		got = append(got, a.Network+" "+a.Dst.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("arrivals %q, want %q", got, want)
	}
	for _, to := range []string{"127.0.0.1:1077", "[::1]:1077", "10.77.0.2:1077", "[fd77::2]:1077"} {
		if c, err := net.DialTimeout("tcp", to, 2*time.Second); err == nil {
			t.Errorf("%s is open", to)
			c.Close()
		}
	}
}

// TestRulesChanged: whoever changes the rules ends the door, and without rules nothing arrives.
func TestRulesChanged(t *testing.T) {
	for _, hold := range []bool{false, true} {
		freshNamespace(t)
		holding := inside
		holding.Hold = hold
		list, err := holding.Open()
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]*os.File{}
		for _, s := range list {
			files[s.Kind] = append(files[s.Kind], os.NewFile(uintptr(s.FD), s.Kind))
		}
		d, err := New(Config{Files: files, Socket: socketHere(t)})
		if err != nil {
			t.Fatal(err)
		}
		h := &handler{}
		done := make(chan error, 1)
		go func() { done <- d.Serve(t.Context(), h) }()
		c, err := net.DialTimeout("tcp", "198.51.100.10:7", 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "weir"})
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if c, err := net.DialTimeout("tcp", "198.51.100.10:12", 200*time.Millisecond); err == nil {
			t.Error("a connection without rules")
			c.Close()
		}
		if err := <-done; !errors.Is(err, ErrRulesChanged) {
			t.Errorf("serve: %v", err)
		}
		for _, a := range h.arrivals() {
			if a.Dst.Port() == portSlow {
				t.Error("it arrived")
			}
		}
	}
}

// TestHalfOpenLimit: SYNs beyond the bound are dropped and counted, and their senders try again.
func TestHalfOpenLimit(t *testing.T) {
	holding := inside
	holding.Hold = true
	d, h := serveWith(t, Limits{HalfOpen: 2}, holding)
	if !d.HoldsSYN() {
		t.Skip("this kernel has no NFQUEUE for nftables")
	}
	const tries = 5
	fds := make([]int, tries)
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds[i] = fd
		unix.Connect(fd, &unix.SockaddrInet4{Port: portStuck, Addr: [4]byte{198, 51, 100, 10}})
	}
	eventually(func() bool { return d.Counters()[dropTCPHalfOpen] >= tries-2 && len(h.arrivals()) == 2 })
	if n, m := d.Counters()[dropTCPHalfOpen], len(h.arrivals()); n < tries-2 || m != 2 {
		t.Errorf("%d SYNs dropped, %d arrivals, want %d and 2", n, m, tries-2)
	}
}

// TestHalfOpenUDPLimit: the same for datagrams that begin a flow.
func TestHalfOpenUDPLimit(t *testing.T) {
	d, h := serve(t, Limits{HalfOpenUDP: 2})
	for range 5 {
		c, err := net.Dial("udp", "198.51.100.10:14")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
	}
	eventually(func() bool { return d.Counters()[dropUDPPending] == 3 && len(h.arrivals()) == 2 })
	if n, m := d.Counters()[dropUDPPending], len(h.arrivals()); n != 3 || m != 2 {
		t.Errorf("%d datagrams dropped, %d arrivals, want 3 and 2", n, m)
	}
}

// TestQueueLimit: what comes before a flow has its verdict is kept up to a bound.
func TestQueueLimit(t *testing.T) {
	d, _ := serve(t, Limits{})
	c, err := net.Dial("udp", "198.51.100.10:14")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range maxQueue + 5 {
		c.Write([]byte("x"))
	}
	eventually(func() bool { return d.Counters()[dropUDPQueue] == 5 })
	if n := d.Counters()[dropUDPQueue]; n != 5 {
		t.Errorf("%d datagrams dropped, want 5", n)
	}
}

// TestLogOverflow: drops that the kernel could not tell are counted as that, and the door goes on.
func TestLogOverflow(t *testing.T) {
	l := &dropLog{counters: &counters{}, source: &overflowing{times: 2}}
	l.readAll()
	if n := l.counters.snapshot()[dropLogLost]; n != 2 {
		t.Errorf("%d overflows counted, want 2", n)
	}
}

// overflowing is a socket that lost messages so many times, and then is closed.
type overflowing struct{ times int }

func (o *overflowing) Read([]byte) (int, error) {
	if o.times--; o.times >= 0 {
		return 0, syscall.ENOBUFS
	}
	return 0, net.ErrClosed
}

func FuzzHeld(f *testing.F) {
	syn := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0, 10, 77, 0, 2, 198, 51, 100, 10}, make([]byte, 20)...)
	body := append([]byte{0, 0, 0, 77, 11, 0, nfqaPacketHdr, 0, 0, 0, 0, 9, 8, 0, 1, 0, byte(4 + len(syn)), 0, nfqaPayload, 0}, syn...)
	f.Add(append([]byte{byte(16 + len(body)), 0, 0, 0, nfqnlMsgPacket, unix.NFNL_SUBSYS_QUEUE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, body...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range heldPackets(b) {
			s, ok := parseSYN(p)
			if ok && (!s.src.IsValid() || !s.dst.IsValid() || s.src.Addr().Is4() != s.dst.Addr().Is4()) {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzOriginalDst(f *testing.F) {
	f.Add([]byte{32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.IP_ORIGDSTADDR, 0, 0, 0, 2, 0, 0, 7, 198, 51, 100, 10, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if dst, ok := originalDst(b); ok && !dst.IsValid() {
			t.Errorf("%v", dst)
		}
	})
}

// TestTakenAddress: a program that has the address of a flow's reply socket to itself loses the flow, which is counted; others go
// on.
func TestTakenAddress(t *testing.T) {
	d, _ := serve(t, Limits{})
	taken, err := net.ListenPacket("udp4", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c, err := net.Dial("udp", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	eventually(func() bool { return d.Counters()[dropUDPSocket] == 1 })
	if n := d.Counters()[dropUDPSocket]; n != 1 {
		t.Errorf("%d flows without a socket, want 1", n)
	}
	other, err := net.Dial("udp", "198.51.100.11:7")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetDeadline(time.Now().Add(2 * time.Second))
	other.Write([]byte("x"))
	if _, err := other.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
