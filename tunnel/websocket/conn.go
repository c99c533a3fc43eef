package websocket

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	ws "github.com/coder/websocket"
)

// InitialPacketSize is what quic.Config.InitialPacketSize should be over a [Conn], in octets: the path is a stream and takes
// any size, so there is none to be found out.
const InitialPacketSize = 1452

// Conn is the client's end: a net.PacketConn for one quic.Transport. Each packet goes to the edge, whatever its address, and
// comes from RemoteAddr.
//
// Writing never blocks and hardly ever fails: a packet that finds the queue full is dropped and counted. When the WebSocket
// breaks, ReadFrom fails, and with it the transport and its sessions.
type Conn struct {
	*link
	remote Addr
	below  net.Conn

	readMu   sync.Mutex
	rest     []byte // packets of the message being read
	message  []byte // the buffer that rest is part of
	messages chan []byte
	free     chan []byte
	deadline deadline

	ctx     context.Context // ends with the connection; its cause is why
	fail    context.CancelCauseFunc
	flushed chan struct{} // closed when nothing will be written any more
	closing atomic.Bool
	closed  sync.Once
	ended   sync.WaitGroup
}

var _ net.PacketConn = (*Conn)(nil)

// Addr is the address of an edge that is reached by WebSocket: its URL.
type Addr string

// Network returns "websocket".
func (Addr) Network() string { return "websocket" }

func (a Addr) String() string { return string(a) }

// inFlight is how many messages are read ahead of who takes the packets.
const inFlight = 2

func newConn(c *ws.Conn, below *corkedConn, remote Addr) *Conn {
	conn := &Conn{link: newLink(c, below), remote: remote, below: below,
		messages: make(chan []byte), free: make(chan []byte, inFlight), deadline: newDeadline(),
		flushed: make(chan struct{})}
	conn.ctx, conn.fail = context.WithCancelCause(context.Background())
	for range inFlight {
		conn.free <- make([]byte, MaxMessage)
	}
	conn.ended.Go(conn.readLoop)
	conn.ended.Go(func() {
		if err := conn.write(conn.ctx); err != nil {
			conn.broke(err)
		}
		close(conn.flushed)
	})
	return conn
}

// broke ends the connection for err, which Close is the reason of when it is under way.
func (c *Conn) broke(err error) {
	if c.closing.Load() {
		err = net.ErrClosed
	}
	c.fail(err)
}

// readLoop reads messages ahead, so that a deadline of ReadFrom ends ReadFrom and not the WebSocket.
func (c *Conn) readLoop() {
	for {
		var buf []byte
		select {
		case buf = <-c.free:
		case <-c.ctx.Done():
			return
		}
		message, err := c.read(c.ctx, buf)
		if err != nil {
			c.broke(err)
			return
		}
		select {
		case c.messages <- message:
		case <-c.ctx.Done():
			return
		}
	}
}

// ReadFrom returns the next packet. The error is that of the deadline, net.ErrClosed after Close, or why the WebSocket broke.
func (c *Conn) ReadFrom(p []byte) (n int, from net.Addr, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		for len(c.rest) > 0 {
			var packet []byte
			packet, c.rest = nextPacket(c.rest)
			if len(packet) > 0 {
				return copy(p, packet), c.remote, nil
			}
		}
		if c.message != nil {
			c.free <- c.message[:cap(c.message)]
			c.message = nil
		}
		select {
		case c.message = <-c.messages:
			c.rest = c.message
		case <-c.deadline.passed():
			return 0, nil, os.ErrDeadlineExceeded
		case <-c.ctx.Done():
			return 0, nil, context.Cause(c.ctx)
		}
	}
}

// WriteTo queues a packet for the edge or drops it; either way it reports it as written.
func (c *Conn) WriteTo(p []byte, _ net.Addr) (n int, err error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	c.send(p)
	return len(p), nil
}

// Close sends what is queued, has the edge say that it has it, and ends the WebSocket, all within a second. Closing a broken
// one is no error.
func (c *Conn) Close() error {
	c.closed.Do(func() {
		c.closing.Store(true)
		c.out.end()
		late := time.AfterFunc(flushTimeout, func() { c.below.Close() })
		defer late.Stop()
		select {
		case <-c.flushed:
			// Closing the socket with something unread in it would reset it, and what was sent last might be lost.
			c.ws.Close(ws.StatusNormalClosure, "")
		case <-c.ctx.Done():
		}
		c.fail(net.ErrClosed)
		c.ws.CloseNow()
		c.below.Close()
		c.ended.Wait()
	})
	return nil
}

// Done is closed when the WebSocket has broken or was closed.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Err is why Done is closed, and nil before: net.ErrClosed after Close.
func (c *Conn) Err() error { return context.Cause(c.ctx) }

// Stats are what became of the packets so far.
func (c *Conn) Stats() Stats { return c.stats() }

// LocalAddr returns a name only: the packets have no address here.
func (c *Conn) LocalAddr() net.Addr { return Addr("client") }

// RemoteAddr is the edge's URL, for quic.Transport.Dial.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadline of reading; writing never waits.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline sets when ReadFrom fails with os.ErrDeadlineExceeded; zero is never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.deadline.set(t)
	return nil
}

// SetWriteDeadline does nothing: writing never waits.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer does nothing: the buffer is the kernel's for a stream, which sizes it itself.
func (c *Conn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing: the queue is [QueueLen] packets long.
func (c *Conn) SetWriteBuffer(int) error { return nil }

// deadline is a channel that is closed once a time has passed, and made anew when another time is set.
type deadline struct {
	mu    *sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func newDeadline() deadline { return deadline{mu: new(sync.Mutex), ch: make(chan struct{})} }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := d.timer != nil && !d.timer.Stop() // it has passed, or is about to
	select {
	case <-d.ch:
		late = true
	default:
	}
	if late {
		d.ch = make(chan struct{})
	}
	d.timer = nil
	if t.IsZero() {
		return
	}
	ch := d.ch
	expire := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		select {
		case <-ch:
		default:
			close(ch)
		}
	}
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, expire)
	} else {
		close(ch)
	}
}
