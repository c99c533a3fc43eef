package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
)

// TestDial: a flow that may pass is carried, counted, shown while it is open, and told of at its end.
func TestDial(t *testing.T) {
	at := server(t)
	m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
	c, err := m.Dial(context.Background(), opening(at.String()+" db.example"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := io.ReadFull(c, b[:5]); err != nil || string(b[:n]) != "hello" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	shown := m.Flows()
	if len(shown) != 1 || shown[0].Sent != 5 || shown[0].Received != 5 || shown[0].Rule != "flag:1" || shown[0].Flow != "7f3a9c-12" || shown[0].Confirmed {
		t.Errorf("shown: %+v", shown)
	}
	if err := c.(tunnel.Upstream).CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("after the half-close: %v", err)
	}
	c.Close()
	c.Close()
	if len(m.Flows()) != 0 || m.limits.flows.Load() != 0 || m.limits.dials.Load() != 0 {
		t.Error("the flow is still on the books")
	}
	ends := of[*event.Close](m.log)
	if len(ends) != 1 || ends[0].Close != "fin" || ends[0].BytesSent != 5 || ends[0].BytesReceived != 5 || len(of[*event.Connect](m.log)) != 1 {
		t.Errorf("told: %+v", ends)
	}
}

// TestCopies: what io.Copy does is counted, too.
func TestCopies(t *testing.T) {
	at := server(t)
	m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
	c, err := m.Dial(context.Background(), opening(at.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 100_000
	go func() {
		io.Copy(c, bytes.NewReader(make([]byte, size)))
		c.(tunnel.Upstream).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != size {
		t.Fatalf("copied %d, %v", n, err)
	}
	if f := m.Flows()[0]; f.Sent != size || f.Received != size {
		t.Errorf("counted %d and %d", f.Sent, f.Received)
	}
}

// TestDialErrors: how a dial fails is told by code alone: the text of the system's error has addresses of this machine.
func TestDialErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	m := newMachine(t, Rules{Allow: []string{"127.0.0.1:*", "192.0.2.1:443"}}, nil)
	_, err = m.Dial(context.Background(), opening(closed))
	var e *tunnel.Error
	if !errors.As(err, &e) || e.Code != tunnel.Refused || e.Text != "" || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	ctx, cancel := context.WithDeadline(context.Background(), time.Now())
	defer cancel()
	if _, err = m.Dial(ctx, opening("192.0.2.1:443")); tunnel.CodeOf(err) != tunnel.TimedOut {
		t.Errorf("no time left: %v", err)
	}
	if len(m.Flows()) != 0 || m.limits.flows.Load() != 0 || m.limits.dials.Load() != 0 {
		t.Error("a flow that did not come to be is on the books")
	}
	var how []string
	for _, d := range of[*event.Close](m.log) {
		how = append(how, d.Close)
	}
	if got := strings.Join(how, " "); got != "rst timeout" {
		t.Errorf("told: %q", got)
	}
}

// TestKill: a flow that the user ends is reset on both sides, and the code says who did it.
func TestKill(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := newMachine(t, Rules{Allow: []string{l.Addr().String()}}, nil)
	c, err := m.Dial(context.Background(), opening(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	if m.Kill(99) || !m.Kill(m.Flows()[0].ID) {
		t.Error("the wrong one was killed")
	}
	if err := <-read; tunnel.CodeOf(err) != tunnel.Denied {
		t.Errorf("the session reads %v", err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the destination reads %v", err)
	}
	if ends := of[*event.Close](m.log); len(ends) != 1 || ends[0].Close != "policy" {
		t.Errorf("told: %+v", ends)
	}
}

// TestAbort: how the flow ended on the hosted side is what the destination and the log see.
func TestAbort(t *testing.T) {
	for _, c := range []struct {
		code tunnel.Code
		told string
	}{{tunnel.Reset, "rst"}, {tunnel.Lost, "tunnel-lost"}, {tunnel.Draining, "exit"}, {tunnel.Malformed, "error"}} {
		t.Run(c.told, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			m := newMachine(t, Rules{Allow: []string{l.Addr().String()}}, nil)
			conn, err := m.Dial(context.Background(), opening(l.Addr().String()))
			if err != nil {
				t.Fatal(err)
			}
			far, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			conn.(tunnel.Upstream).Abort(c.code)
			conn.Close()
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the destination reads %v", err)
			}
			if ends := of[*event.Close](m.log); len(ends) != 1 || ends[0].Close != c.told {
				t.Errorf("told: %+v", ends)
			}
		})
	}
}

// udpServer answers each datagram with itself and who it came from.
func udpServer(t *testing.T) netip.AddrPort {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(fmt.Appendf(b[:n:n], " %s", from), from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// exchange sends a datagram and returns the answer.
func exchange(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// TestRehoming: the socket of a UDP flow outlives the session that it was opened over, and nothing of it is left with that.
func TestRehoming(t *testing.T) {
	at := udpServer(t)
	m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
	dial := func(flow string) net.Conn {
		t.Helper()
		c, err := m.Dial(context.Background(), opening(at.String()+" udp flow="+flow))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial("a")
	answer := exchange(t, first, "x")
	reader := make(chan error, 1)
	go func() { _, err := first.Read(make([]byte, 64)); reader <- err }()
	raw, err := first.(tunnel.Upstream).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	first.(tunnel.Upstream).Abort(tunnel.Lost)
	if err := <-reader; tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the old session reads %v", err)
	}
	if f := m.Flows(); len(f) != 1 || !f[0].WaitsForTunnel {
		t.Errorf("shown: %+v", f)
	}

	other := dial("b")
	if exchange(t, other, "x") == answer {
		t.Error("another flow got the socket")
	}
	other.Close()

	again := dial("a")
	if got := exchange(t, again, "x"); got != answer {
		t.Errorf("the server saw %q, and %q before", got, answer)
	}
	if _, err := first.Read(make([]byte, 64)); tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the old session still reads: %v", err)
	}
	if _, err := first.Write([]byte("y")); tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the old session still writes: %v", err)
	}
	if err := raw.Read(func(uintptr) bool { return true }); tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the old session still has the socket: %v", err)
	}
	first.Close()
	first.(tunnel.Upstream).Abort(tunnel.Reset)
	if got := exchange(t, again, "x"); got != answer {
		t.Errorf("the old session has closed the socket: %q", got)
	}
	again.Close()
	if m.park.len() != 0 || len(m.Flows()) != 0 || m.limits.flows.Load() != 0 {
		t.Error("something is left")
	}
	if n := len(of[*event.Connect](m.log)); n != 2 {
		t.Errorf("%d flows were told of", n)
	}
}

// TestParkedSocketsEnd: for a while, no more than there is room for, and not by another's name.
func TestParkedSocketsEnd(t *testing.T) {
	at := udpServer(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, Rules{Allow: []string{at.String()}}, nil, func(c *HandlerConfig) {
			c.Limits = Limits{Flows: maxParked + 8, DialsPerSecond: maxParked + 8}
		})
		for i := range maxParked + 3 {
			c, err := m.Dial(t.Context(), opening(fmt.Sprintf("%s udp flow=%d", at, i)))
			if err != nil {
				t.Fatal(err)
			}
			c.(tunnel.Upstream).Abort(tunnel.Lost)
		}
		if m.park.len() != maxParked || m.Counters().Parked != 3 {
			t.Errorf("%d wait, %d were refused", m.park.len(), m.Counters().Parked)
		}
		o := opening(at.String() + " udp flow=1")
		o.Sandbox = "another"
		if m.park.take((&flow{open: o}).key()) != nil {
			t.Error("another sandbox got the socket")
		}
		time.Sleep(parkedFor + time.Second)
		if m.park.len() != 0 || len(m.Flows()) != 0 || m.limits.flows.Load() != 0 {
			t.Errorf("%d still wait", m.park.len())
		}
	})
}

// TestIdle: a UDP flow ends 30 s after a datagram that nobody answers, 120 s after the last one otherwise.
func TestIdle(t *testing.T) {
	at := udpServer(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
		open := func() *datagrams {
			c, err := m.Dial(t.Context(), opening(at.String()+" udp"))
			if err != nil {
				t.Fatal(err)
			}
			return c.(*datagrams)
		}
		d := open()
		time.Sleep(25 * time.Second)
		d.Carried(1, 0)
		time.Sleep(25 * time.Second)
		if len(m.Flows()) != 1 {
			t.Fatal("ended too early")
		}
		time.Sleep(6 * time.Second)
		if len(m.Flows()) != 0 {
			t.Fatal("unanswered, and still open")
		}
		if _, err := d.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the session reads %v", err)
		}
		d = open()
		d.Carried(1, 1)
		time.Sleep(119 * time.Second)
		d.Carried(1, 0)
		time.Sleep(119 * time.Second)
		if len(m.Flows()) != 1 {
			t.Fatal("ended too early")
		}
		time.Sleep(2 * time.Second)
		if len(m.Flows()) != 0 {
			t.Fatal("idle, and still open")
		}
	})
	// The socket of the first flow, which nobody closed but us, is closed: goleak and the descriptor table would tell.
}

// TestRefusedDatagram: an ICMP port unreachable is seen by the session.
func TestRefusedDatagram(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := c.LocalAddr().String()
	c.Close()
	m := newMachine(t, Rules{Allow: []string{at}}, nil)
	d, err := m.Dial(context.Background(), opening(at+" udp"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.Write([]byte("x"))
	if _, err := d.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Refused {
		t.Errorf("read: %v", err)
	}
}
