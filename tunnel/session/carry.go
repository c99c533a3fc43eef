package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// serveTCP connects to the flow's destination and carries its octets.
func (c *Client) serveTCP(q *quic.Stream, h wire.Header) {
	conn, err := c.dial(q.Context(), h)
	if err != nil {
		c.answerError(q, err)
		return
	}
	if err := c.answer(q, wire.Status{Resolved: addrPort(conn.RemoteAddr()), Bound: addrPort(conn.LocalAddr())}); err != nil {
		abort(conn, tunnel.CodeOf(flowError(err)))
		refuse(q, tunnel.TimedOut)
		return
	}
	f := &carrier{client: c, q: q, conn: conn, share: c.fair.join(h.Open.Sandbox)}
	defer f.share.leave()
	f.run()
}

// dial has the Handler connect. The edge may end that by not wanting the stream any more.
func (c *Client) dial(ctx context.Context, h wire.Header) (net.Conn, error) {
	patience := h.Patience
	if patience == 0 {
		patience = DialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.handler.Dial(ctx, h.Open)
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// abort closes a connection of the Handler's for a reason.
func abort(conn net.Conn, code tunnel.Code) {
	switch c := conn.(type) {
	case tunnel.Upstream:
		c.Abort(code)
	case interface{ SetLinger(sec int) error }:
		c.SetLinger(0)
	}
	conn.Close()
}

// carrier is the client's end of a TCP flow.
type carrier struct {
	client *Client
	q      *quic.Stream
	conn   net.Conn
	share  *share
	sent   int64 // octets on the stream

	failed  atomic.Bool // both directions are over
	enough  atomic.Bool // the edge has closed the flow: it reads no more, but what it wrote is still to be delivered
	endOnce sync.Once
}

// run carries both directions until they have ended.
func (f *carrier) run() {
	// The edge's STOP_SENDING ends the stream's context: then nobody waits for the destination any more.
	stop := context.AfterFunc(f.q.Context(), func() {
		var remote *quic.StreamError
		if errors.As(context.Cause(f.q.Context()), &remote) && remote.Remote && remote.ErrorCode == quic.StreamErrorCode(tunnel.OK) {
			f.enough.Store(true)
			f.conn.SetReadDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	var down sync.WaitGroup
	down.Go(f.down)
	f.up()
	down.Wait()
	f.conn.Close()
}

// up carries what comes from the edge.
func (f *carrier) up() {
	p := f.client.stalls.add(f.share.key, f.fail)
	defer f.client.stalls.remove(p)
	_, err := pour(patient{f.conn}, f.q, p)
	var failed *writeError
	switch {
	case err == nil:
		if c, ok := f.conn.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
			return
		}
		f.fail(tunnel.OK)
	case errors.As(err, &failed):
		f.fail(socketCode(failed.err))
	default:
		f.fail(streamCode(err))
	}
}

// down carries what comes from the destination.
func (f *carrier) down() {
	_, err := fill(f, f.conn)
	var failed *writeError
	switch {
	case f.enough.Load():
		// Only the other direction is of interest to the edge, which has been told all that it wants to know.
		f.q.CancelWrite(quic.StreamErrorCode(tunnel.OK))
	case err == nil:
		f.q.Close()
	case errors.As(err, &failed):
		f.fail(streamCode(failed.err))
	default:
		f.fail(socketCode(err))
	}
}

// Write writes what came from the destination to the stream.
func (f *carrier) Write(b []byte) (int, error) {
	n, err := f.share.write(f.q, b)
	f.sent = weigh(f.q, f.sent, n)
	return n, err
}

// fail ends both directions, on both sides.
func (f *carrier) fail(code tunnel.Code) {
	f.endOnce.Do(func() {
		f.failed.Store(true)
		refuse(f.q, code)
		abort(f.conn, code)
	})
}

// streamCode is how the edge, or the session, has ended the flow.
func streamCode(err error) tunnel.Code {
	code, _ := ending(flowError(err))
	return code
}

// socketCode is how the destination has ended the flow: whatever a socket fails with, the connection is no more.
func socketCode(err error) tunnel.Code {
	if code := tunnel.CodeOf(err); code != tunnel.Internal && code != tunnel.OK {
		return code
	}
	return tunnel.Reset
}

// patient writes to a destination that takes something at least every stallTimeout.
type patient struct{ conn net.Conn }

func (p patient) Write(b []byte) (int, error) {
	p.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	return p.conn.Write(b)
}

var _ io.Writer = patient{}
