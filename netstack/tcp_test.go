package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-dev/weir/flow"
)

func TestMain(m *testing.M) {
	if program, ok := os.LookupEnv(tapChild); ok {
		os.Exit(runTapChild(program))
	}
	goleak.VerifyTestMain(m)
}

func TestTCPRejectBeforeAccept(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		if a.Network != "tcp" {
			t.Errorf("arrival %+v", a)
		}
		a.Reject(flow.Reason(a.Dst.Port() - 80))
		a.Reject(flow.Denied) // only the first one acts
	}))
	for _, to := range []string{"203.0.113.7", "[2001:db8::7]"} {
		for _, reason := range []flow.Reason{flow.Denied, flow.Refused} {
			_, err := p.dial(to + ":" + strconv.Itoa(80+int(reason)))
			wantError(t, "dial", err, "connection was refused")
		}
	}
}

// The stack that stands for the sandbox's kernel hears an ICMP error without failing its SYN; TestTAP shows that Linux
// does fail.
func TestTCPRejectUnreachable(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		a.Reject(flow.Reason(a.Dst.Port() - 80))
	}))
	for _, reason := range []flow.Reason{flow.HostUnreachable, flow.NetUnreachable} {
		for _, to := range []string{"203.0.113.7", "[2001:db8::7]"} {
			icmp := p.inside.Stats().ICMP
			heard := func() uint64 {
				return icmp.V4.PacketsReceived.DstUnreachable.Value() + icmp.V6.PacketsReceived.DstUnreachable.Value()
			}
			before := heard()
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				p.dialContext(ctx, to+":"+strconv.Itoa(80+int(reason)))
			}()
			eventually(t, "the error arrives", func() bool { return heard() > before })
			cancel()
			<-done
		}
	}
	if p.counters.get(countUnreachableSent) < 4 {
		t.Errorf("counters %v", p.Counters())
	}
}

// A flow that timed out upstream leaves the client to its own patience: its next SYN is a new arrival.
func TestTCPTimedOutIsSilent(t *testing.T) {
	arrived := make(chan struct{}, 8)
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		a.Reject(flow.TimedOut)
		arrived <- struct{}{}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := p.dialContext(ctx, "203.0.113.7:80")
		done <- err
	}()
	<-arrived
	<-arrived
	select {
	case err := <-done:
		t.Errorf("dial ended early: %v", err)
	default:
	}
	cancel()
	<-done
}

// What a handler forgets is refused.
func TestTCPAbandonedIsRefused(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(context.Context, flow.Arrival) {}))
	_, err := p.dial("203.0.113.7:80")
	wantError(t, "dial", err, "connection was refused")
}

func TestTCPRejectAfterAccept(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		c, err := a.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		io.ReadFull(c, make([]byte, 5))
		a.Reject(flow.Denied)
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after reject: %v", err)
		}
		if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second accept: %v", err)
		}
	}))
	c := p.mustDial(t, "203.0.113.7:80")
	c.Write([]byte("hello"))
	_, err := c.Read(make([]byte, 1))
	wantError(t, "read", err, "connection reset")
}

func TestTCPArrivalNamesBothEnds(t *testing.T) {
	seen, checked := make(chan flow.Arrival, 1), make(chan struct{})
	p := newPeer(t, Config{}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		seen <- a
		c, err := a.Accept()
		if err != nil {
			t.Errorf("accept %v: %v", a.Dst, err)
			return
		}
		if c.LocalAddr().String() != a.Dst.String() || c.RemoteAddr().String() != a.Src.String() {
			t.Errorf("conn %v <- %v, arrival %v <- %v", c.LocalAddr(), c.RemoteAddr(), a.Dst, a.Src)
		}
		checked <- struct{}{}
		sink(ctx, c)
	}))
	for _, to := range []string{"203.0.113.7:80", "[2001:db8::7]:8080", "10.77.0.1:99"} {
		c := p.mustDial(t, to)
		a := <-seen
		if a.Dst.String() != to || a.Src.String() != c.LocalAddr().String() {
			t.Errorf("dialled %s from %v: arrival %v <- %v", to, c.LocalAddr(), a.Dst, a.Src)
		}
		<-checked
		c.Close()
	}
}

// A client that gives up while the gate dials cancels the flow's context.
func TestTCPClientGivesUpDuringDial(t *testing.T) {
	for _, tt := range []struct {
		name   string
		second func(syn segmentFields) segmentFields
	}{
		{"reset", func(syn segmentFields) segmentFields { syn.flags, syn.seq = flagRST, syn.seq+1; return syn }},
		{"other connection on the same ports", func(syn segmentFields) segmentFields { syn.seq += 99999; return syn }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entered, cancelled := make(chan struct{}), make(chan struct{})
			p := newPeer(t, Config{}, handlerOf(func(ctx context.Context, a flow.Arrival) {
				close(entered)
				<-ctx.Done()
				close(cancelled)
				if _, err := a.Accept(); !errors.Is(err, context.Canceled) {
					t.Errorf("accept: %v", err)
				}
			}))
			syn := segmentFields{src: guest4, dst: netip.MustParseAddr("203.0.113.7"), sport: 4000, dport: 80, seq: 7, flags: flagSYN}
			p.sendFrame(syn.frame())
			<-entered
			p.sendFrame(tt.second(syn).frame())
			<-cancelled
		})
	}
}

// SYN, RST, ten thousand times: nothing of it stays, and the next connection works.
func TestTCPSynResetFlood(t *testing.T) {
	l := hostListener(t, echo)
	p := newPeer(t, Config{}, toHost(l, nil))
	n := 10000
	if testing.Short() {
		n = 1000
	}
	for i := range n {
		syn := segmentFields{src: guest4, dst: netip.MustParseAddr("203.0.113.7"), sport: uint16(1024 + i), dport: 80, seq: uint32(i), flags: flagSYN}
		p.sendFrame(syn.frame())
		syn.flags, syn.seq = flagRST, syn.seq+1
		p.sendFrame(syn.frame())
	}
	c := p.mustDial(t, "203.0.113.7:81")
	roundTrip(t, c, "still here")
}

func roundTrip(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("read %q, %v; want %q", b, err, s)
	}
}

func TestTCPHalfOpenLimit(t *testing.T) {
	const limit = 8
	release := make(chan struct{})
	var live atomic.Int32
	p := newPeer(t, Config{Limits: Limits{HalfOpen: limit}}, handlerOf(func(_ context.Context, a flow.Arrival) {
		live.Add(1)
		<-release
		a.Reject(flow.TimedOut)
	}))
	for i := range 3 * limit {
		p.sendFrame(segmentFields{src: guest4, dst: netip.MustParseAddr("203.0.113.7"), sport: uint16(1024 + i), dport: 80, flags: flagSYN}.frame())
	}
	eventually(t, "the rest is dropped", func() bool { return p.counters.get(dropHalfOpen) == 2*limit })
	if got := live.Load(); got > limit {
		t.Errorf("%d handlers at once, limit %d", got, limit)
	}
	close(release)
	eventually(t, "handlers return", func() bool { return live.Load() == limit })
}

// sink reads c until it or ctx ends.
func sink(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	io.Copy(io.Discard, c)
	c.Close()
}

func TestTCPFlowLimit(t *testing.T) {
	p := newPeer(t, Config{Limits: Limits{TCPFlows: 2}}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		if c, err := a.Accept(); err == nil {
			sink(ctx, c)
		}
	}))
	first := p.mustDial(t, "203.0.113.7:80")
	p.mustDial(t, "203.0.113.7:80")
	_, err := p.dial("203.0.113.7:80")
	wantError(t, "third dial", err, "connection was refused")
	if p.counters.get(rejectTCPFlows) != 1 {
		t.Errorf("counters %v", p.Counters())
	}
	first.Close()
	eventually(t, "room again", func() bool {
		c, err := p.dial("203.0.113.7:80")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// A handshake the client never finishes does not hold up Close.
func TestTCPCloseDuringHandshake(t *testing.T) {
	accepting := make(chan struct{})
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		close(accepting)
		if _, err := a.Accept(); err == nil {
			t.Error("accept succeeded")
		}
	}))
	// The sandbox's stack knows nothing of this SYN and answers the SYN-ACK with a RST, so keep it from hearing.
	p.inside.DisableNIC(nicID)
	p.sendFrame(segmentFields{src: guest4, dst: netip.MustParseAddr("203.0.113.7"), sport: 4000, dport: 80, flags: flagSYN}.frame())
	<-accepting
	p.Close()
}

func TestGatewayListener(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) { a.Reject(flow.Denied) }))
	for _, gw := range []netip.Addr{gateway4, gateway6} {
		at := netip.AddrPortFrom(gw, 53)
		l, err := p.Listen(at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Listen(at); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c := p.mustDial(t, at.String())
		roundTrip(t, c, "question")
		c.Close()

		_, err = p.dial(netip.AddrPortFrom(gw, 54).String())
		wantError(t, "port without listener", err, "connection was refused")

		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		l.Close()
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
	}
}

func TestDialTCP(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) { a.Reject(flow.Denied) }))
	for _, addr := range []netip.Addr{guest4, guest6} {
		stop := p.listenInside(t, netip.AddrPortFrom(addr, 8080))
		c, err := p.DialTCP(context.Background(), netip.AddrPortFrom(addr, 8080))
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, "hello")
		c.Close()
		stop()
		if _, err := p.DialTCP(context.Background(), netip.AddrPortFrom(addr, 8081)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port: %v", err)
		}
	}
	if _, err := p.DialTCP(context.Background(), netip.MustParseAddrPort("203.0.113.7:80")); err == nil {
		t.Error("dialled an address that is not the sandbox's")
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.inside.DisableNIC(nicID)
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := p.DialTCP(ctx, netip.AddrPortFrom(guest4, 8080)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled dial: %v", err)
	}
}
