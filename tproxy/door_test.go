//go:build linux

package tproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/tproxy/rules"
)

const insideVariable = "WEIR_TPROXY_INSIDE"

var inside = rules.Inside{
	Addr4: netip.MustParseAddr("10.77.0.2"), Gateway4: netip.MustParseAddr("10.77.0.1"),
	Addr6: netip.MustParseAddr("fd77::2"), Gateway6: netip.MustParseAddr("fd77::1"), Port: 1077, LogGroup: 77, Queue: 77,
}

// TestMain runs the tests in namespaces of their own. Each test makes its sockets anew: the rules are for good.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		goleak.VerifyTestMain(m)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// handler judges by the port of the destination.
type handler struct {
	mu   sync.Mutex
	seen []flow.Arrival
}

// arrivals returns what came so far.
func (h *handler) arrivals() []flow.Arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

const (
	portEcho    = 7
	portRefuse  = 9
	portHost    = 10
	portAbandon = 11
	portSlow    = 12 // accepts when a while has passed
	portStuck   = 14 // is never judged
	portBatch   = 13 // sends datagrams back by the batch
)

func (h *handler) Handle(ctx context.Context, a flow.Arrival) {
	h.mu.Lock()
	h.seen = append(h.seen, a)
	h.mu.Unlock()
	switch a.Dst.Port() {
	case portRefuse:
		a.Reject(flow.Denied)
		return
	case portHost:
		a.Reject(flow.HostUnreachable)
		return
	case portAbandon:
		return
	case portStuck:
		<-ctx.Done()
		return
	case portSlow:
		time.Sleep(50 * time.Millisecond)
	}
	c, err := a.Accept()
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	if a.Network == "tcp" {
		io.Copy(c, c)
		return
	}
	if a.Dst.Port() == portBatch {
		c.(flow.BatchConn).Forward(echoBatches{c.(flow.BatchConn)})
		return
	}
	b := make([]byte, maxDatagram)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// serve runs a door until the test ends. Sockets of an earlier test may still be closing, so every door has a port of its
// own, and rules of its own in a namespace of its own.
func serve(t *testing.T, limits Limits) (*Door, *handler) {
	t.Helper()
	return serveWith(t, limits, inside)
}

func serveWith(t *testing.T, limits Limits, inside rules.Inside) (*Door, *handler) {
	t.Helper()
	d := newDoor(t, limits, inside)
	h := &handler{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("serve: %v", err)
		}
	})
	return d, h
}

// newDoor makes a door in a new namespace, where the test goes to.
func newDoor(t *testing.T, limits Limits, inside rules.Inside) *Door {
	t.Helper()
	freshNamespace(t)
	list, err := inside.Open()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]*os.File{}
	for _, s := range list {
		files[s.Kind] = append(files[s.Kind], os.NewFile(uintptr(s.FD), s.Kind))
	}
	d, err := New(Config{Files: files, Limits: limits, Socket: socketHere(t)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// freshNamespace moves the test's thread, and the program that dials from it, to a new network namespace.
func freshNamespace(t *testing.T) {
	t.Helper()
	lockThread(t)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func last(list []flow.Arrival) flow.Arrival { return list[len(list)-1] }

func TestStream(t *testing.T) {
	d, h := serve(t, Limits{})
	for _, to := range []string{"198.51.100.10:7", "[2001:db8::1]:7", "10.77.0.1:7"} {
		c, err := net.DialTimeout("tcp", to, 2*time.Second)
		if err != nil {
			t.Fatalf("dial %s: %v", to, err)
		}
		io.WriteString(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if string(b) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", to, b, err)
		}
		got := last(h.arrivals())
		if got.Dst.String() != to || got.Src != addrPort(c.LocalAddr()) || got.Network != "tcp" {
			t.Errorf("arrival %+v, want %s -> %s", got, c.LocalAddr(), to)
		}
		c.Close()
	}
	if n := d.Counters()[countTCP]; n != 3 {
		t.Errorf("%d connections counted", n)
	}
}

// TestHeld: where the kernel holds SYNs, what is refused is refused as it would be without a door.
func TestHeld(t *testing.T) {
	holding := inside
	holding.Hold = true
	d, h := serveWith(t, Limits{}, holding)
	if !d.HoldsSYN() {
		t.Skip("this kernel has no NFQUEUE for nftables")
	}
	for _, c := range []struct {
		to   string
		want error
	}{
		{"198.51.100.10:7", nil},
		{"[2001:db8::1]:7", nil},
		{"198.51.100.10:12", nil},
		{"198.51.100.10:9", syscall.ECONNREFUSED},
		{"[2001:db8::1]:9", syscall.ECONNREFUSED},
		{"198.51.100.10:10", syscall.EHOSTUNREACH},
		{"[2001:db8::1]:10", syscall.EHOSTUNREACH},
		{"198.51.100.10:11", syscall.ECONNREFUSED},
	} {
		conn, err := net.DialTimeout("tcp", c.to, 2*time.Second)
		if !errors.Is(err, c.want) {
			t.Errorf("dial %s: %v, want %v", c.to, err, c.want)
		}
		if got := last(h.arrivals()); got.Dst.String() != c.to {
			t.Errorf("arrival for %s, want %s", got.Dst, c.to)
		}
		if err != nil {
			continue
		}
		io.WriteString(conn, "hello")
		conn.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", c.to, b, err)
		}
		conn.Close()
	}
	if n := len(h.arrivals()); n != 8 {
		t.Errorf("%d arrivals, want one for each", n)
	}
}

func TestStreamRefused(t *testing.T) {
	serve(t, Limits{})
	for _, port := range []string{"9", "10", "11"} {
		c, err := net.DialTimeout("tcp", "198.51.100.10:"+port, 2*time.Second)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("port %s: %v, want a reset", port, err)
		}
	}
}

func TestStreamLimit(t *testing.T) {
	d, _ := serve(t, Limits{TCPFlows: 2})
	var open []net.Conn
	reset := 0
	for range 3 {
		c, err := net.DialTimeout("tcp", "198.51.100.10:7", 2*time.Second)
		if err != nil { // the reset may come before connect returns
			reset++
			continue
		}
		defer c.Close()
		io.WriteString(c, "x")
		open = append(open, c)
	}
	for _, c := range open {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			reset++
		}
	}
	if reset != 1 || d.Counters()[rejectTCPFlows] != 1 {
		t.Errorf("%d of 3 connections were reset, %d counted, want 1", reset, d.Counters()[rejectTCPFlows])
	}
}

func TestDatagrams(t *testing.T) {
	_, h := serve(t, Limits{})
	for _, to := range []string{"198.51.100.10:7", "[2001:db8::1]:7", "198.51.100.10:12"} {
		for range 2 { // two flows to one destination
			c, err := net.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * time.Second))
			for _, text := range []string{"one", "two", "", strings.Repeat("x", 60000)} {
				if _, err := c.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, maxDatagram)
			for _, want := range []string{"one", "two", "", strings.Repeat("x", 60000)} {
				n, err := c.Read(b)
				if err != nil || string(b[:n]) != want {
					t.Errorf("%s: %.10q (%d), %v, want %.10q", to, b[:n], n, err, want)
				}
			}
			if got := last(h.arrivals()); got.Dst.String() != to || got.Src != addrPort(c.LocalAddr()) || got.Network != "udp" {
				t.Errorf("arrival %+v, want %s -> %s", got, c.LocalAddr(), to)
			}
		}
	}
	if len(h.arrivals()) != 6 {
		t.Errorf("%d flows, want 6", len(h.arrivals()))
	}
}

// TestDatagramRefused: the program sees what it would see of a closed port, at once and again.
func TestDatagramRefused(t *testing.T) {
	_, h := serve(t, Limits{})
	for _, c := range []struct {
		to   string
		want syscall.Errno
	}{
		{"198.51.100.10:9", syscall.ECONNREFUSED},
		{"[2001:db8::1]:9", syscall.ECONNREFUSED},
		{"198.51.100.10:10", syscall.EHOSTUNREACH},
		{"[2001:db8::1]:10", syscall.EHOSTUNREACH},
	} {
		before := len(h.arrivals())
		conn, err := net.Dial("udp", c.to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		reportSoftErrors(t, conn.(*net.UDPConn))
		for range 2 {
			conn.SetDeadline(time.Now().Add(2 * time.Second))
			conn.Write([]byte("x"))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.to, err, c.want)
			}
		}
		if n := len(h.arrivals()) - before; n != 1 {
			t.Errorf("%s: judged %d times, want once", c.to, n)
		}
	}
}

// reportSoftErrors has a socket return host unreachable too (ip(7), IP_RECVERR).
func reportSoftErrors(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1); err != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDatagramIdle(t *testing.T) {
	d, h := serve(t, Limits{UDPIdle: 50 * time.Millisecond, UDPUnanswered: 50 * time.Millisecond})
	c, err := net.Dial("udp", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 16)
	c.Write([]byte("x"))
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	for d.table.len() > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	c.Write([]byte("y"))
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	if len(h.arrivals()) != 2 {
		t.Errorf("%d flows, want a second one after the first was idle", len(h.arrivals()))
	}
}

func TestDatagramLimit(t *testing.T) {
	d, _ := serve(t, Limits{UDPFlows: 4})
	for range 12 {
		c, err := net.Dial("udp", "198.51.100.10:7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.table.len(); n > 4 || d.Counters()[countEvicted] != 8 {
		t.Errorf("%d flows, %d evicted, want 4 and 8", n, d.Counters()[countEvicted])
	}
}

func TestDropped(t *testing.T) {
	d, h := serve(t, Limits{})
	from := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 66)}}
	c, err := from.Dial("udp", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("forged"))
	for end := time.Now().Add(2 * time.Second); d.Counters()[rules.DropSource] == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if d.Counters()[rules.DropSource] != 1 || len(h.arrivals()) != 0 {
		t.Errorf("counters %v, %d arrivals", d.Counters(), len(h.arrivals()))
	}
}

func FuzzDropNames(f *testing.F) {
	f.Add([]byte{0x1c, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 77, 8, 0, 10, 0, 'd', 'r', 'o', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range dropNames(b) {
			if n == "" || strings.ContainsRune(n, 0) {
				t.Errorf("name %q", n)
			}
		}
	})
}
