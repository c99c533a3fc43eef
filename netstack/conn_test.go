package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/weir-dev/weir/flow"
)

// acceptedPair is a flow's two ends: what the gate gets, and what the program has.
func acceptedPair(t testing.TB) (accepted, program net.Conn) {
	t.Helper()
	conns, release := make(chan net.Conn, 1), make(chan struct{})
	p := newPeer(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		c, err := a.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		conns <- c
		<-release
		c.Close()
	}))
	t.Cleanup(func() { close(release) }) // before the peer's own
	program = p.mustDial(t, "203.0.113.7:80")
	return <-conns, program
}

// The accepted end behaves as a net.Conn in every respect the standard library's own suite asks for.
func TestConnConformance(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		p := newPeer(t, Config{}, refuseAll)
		l, err := p.Listen(gatewayPort(9))
		if err != nil {
			return nil, nil, nil, err
		}
		accepted := make(chan net.Conn, 1)
		go func() {
			c, _ := l.Accept()
			accepted <- c
		}()
		c2, err = p.dial(gatewayPort(9).String())
		if err != nil {
			return nil, nil, nil, err
		}
		c1 = <-accepted
		return c1, c2, func() {
			c1.Close()
			c2.Close()
			l.Close()
		}, nil
	})
}

// A blocked Read or WriteTo ends when the connection is closed, aborted, or its deadline passes.
func TestConnUnblocks(t *testing.T) {
	read := func(c *tcpConn) error { _, err := c.Read(make([]byte, 1)); return err }
	writeTo := func(c *tcpConn) error { _, err := c.WriteTo(io.Discard); return err }
	fill := func(c *tcpConn) error {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	}
	for _, tt := range []struct {
		name    string
		blocked func(c *tcpConn) error
		by      func(c *tcpConn)
		want    error
	}{
		{"read, closed", read, func(c *tcpConn) { c.Close() }, net.ErrClosed},
		{"read, aborted", read, (*tcpConn).Abort, net.ErrClosed},
		{"read, deadline", read, func(c *tcpConn) { c.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"read, shut", read, func(c *tcpConn) { c.CloseRead() }, io.EOF},
		{"writeTo, aborted", writeTo, (*tcpConn).Abort, net.ErrClosed},
		{"writeTo, deadline", writeTo, func(c *tcpConn) { c.SetDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"write, aborted", fill, (*tcpConn).Abort, net.ErrClosed},
		{"write, deadline", fill, func(c *tcpConn) { c.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			accepted, _ := acceptedPair(t)
			c := accepted.(*tcpConn)
			done := make(chan error, 1)
			go func() { done <- tt.blocked(c) }()
			time.Sleep(5 * time.Millisecond) // so that it is blocked, mostly; the result is the same if it is not
			tt.by(c)
			if err := <-done; !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// A fast path waiting for a host that says nothing ends when the flow is aborted.
func TestSpliceUnblocks(t *testing.T) {
	hold := make(chan struct{})
	l := hostListener(t, func(c *net.TCPConn) { <-hold })
	defer close(hold)
	accepted, _ := acceptedPair(t)
	c := accepted.(*tcpConn)
	host, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	done := make(chan error, 2)
	go func() { _, err := c.ReadFrom(host); done <- err }()
	go func() { _, err := c.WriteTo(host); done <- err }()
	time.Sleep(5 * time.Millisecond)
	c.Abort()
	for range 2 {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v, want net.ErrClosed", err)
		}
	}
}

// A writer with a NetConn method that is not a carrier keeps its bytes to itself: a TLS connection is not passed by.
func TestSpliceDoesNotBypassWrappers(t *testing.T) {
	a, _ := net.Pipe()
	defer a.Close()
	for _, v := range []any{wrapped{&net.TCPConn{}}, a, struct{ io.Writer }{}} {
		if hostSocket(v) != nil {
			t.Errorf("%T was taken for a kernel socket", v)
		}
	}
	if hostSocket(&net.TCPConn{}) == nil {
		t.Error("a TCP connection was not taken for a kernel socket")
	}
}

type wrapped struct{ *net.TCPConn }

func (w wrapped) NetConn() net.Conn { return w.TCPConn }
