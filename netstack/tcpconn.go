package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Keepalive towards the sandbox: a peer that does not answer is found dead after keepIdle + keepCount*keepInterval.
const (
	keepIdle     = 60 * time.Second
	keepInterval = 15 * time.Second
	keepCount    = 4
)

// tcpConn is the sandbox's end of a TCP flow. It is a net.Conn with half-close and reset, whose WriteTo and ReadFrom
// move bytes between gVisor's buffers and a host socket without a copy in between (splice.go).
//
// It registers with the endpoint once and for all: each direction has a channel that an event fills, and a waiting
// goroutine empties. An idle connection holds no buffer.
type tcpConn struct {
	wq *waiter.Queue
	ep tcpip.Endpoint

	readable, writable chan struct{} // capacity 1
	entries            [3]waiter.Entry
	readBy, writeBy    deadline

	// reading and writing are held by the one operation at a time that each direction can have, from its beginning to its
	// end.
	reading, writing sync.Mutex

	// readMu covers each look into the endpoint's receive queue, until the bytes seen are consumed: Close and Abort give
	// the memory behind them back. It is never held while waiting.
	readMu sync.Mutex
	closed atomic.Bool

	brokenMu sync.Mutex
	broken   error // what failure found

	// host is the kernel socket that fast paths, hostUsers of them, are waiting for; a hangup wakes it up when the endpoint
	// dies, and says so in hup.
	hostMu    sync.Mutex
	host      net.Conn
	hostUsers int
	hup       atomic.Bool
}

var (
	_ net.Conn      = (*tcpConn)(nil)
	_ io.WriterTo   = (*tcpConn)(nil)
	_ io.ReaderFrom = (*tcpConn)(nil)
)

// newTCPConn returns a connection whose queue an endpoint can be created with.
func newTCPConn() *tcpConn {
	return &tcpConn{wq: new(waiter.Queue), readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
}

// start makes ep the connection's endpoint. It owns it from now on.
func (c *tcpConn) start(ep tcpip.Endpoint) {
	c.ep = ep
	o := ep.SocketOptions()
	o.SetDelayOption(false)
	o.SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)

	c.entries[0].Init(signal(c.readable), waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr)
	c.entries[1].Init(signal(c.writable), waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	c.entries[2].Init((*hangup)(c), waiter.EventHUp|waiter.EventErr)
	for i := range c.entries {
		c.wq.EventRegister(&c.entries[i])
	}
}

// wait blocks until ready is signalled or the deadline has passed.
func (c *tcpConn) wait(ready <-chan struct{}, by *deadline) error {
	select {
	case <-ready:
		return nil
	case <-by.expired():
		return os.ErrDeadlineExceeded
	}
}

// Read implements net.Conn. At the end of the client's stream it returns io.EOF, after its reset ECONNRESET.
func (c *tcpConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		if c.readBy.passed() {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		w := tcpip.SliceWriter(b)
		n, err := c.consume(&w)
		switch {
		case err == io.EOF:
			return n, io.EOF
		case err != nil:
			return n, c.opError("read", err)
		case n > 0:
			return n, nil
		}
		if err := c.wait(c.readable, &c.readBy); err != nil {
			return 0, c.opError("read", err)
		}
	}
}

// consume moves received bytes to w, as many as it takes. It returns 0 and nil when there are none, io.EOF when there
// will be none.
func (c *tcpConn) consume(w io.Writer) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	res, terr := c.ep.Read(w, tcpip.ReadOptions{})
	if res.Count > 0 {
		c.ep.ModerateRecvBuf(res.Count)
		return res.Count, nil
	}
	return 0, c.readError(terr)
}

// readError is what a Read of the endpoint failed with; nil means try again later.
func (c *tcpConn) readError(terr tcpip.Error) error {
	if terr != nil && c.closed.Load() {
		return net.ErrClosed
	}
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock:
		return nil
	case *tcpip.ErrClosedForReceive:
		if err := c.failure(); err != nil {
			return err
		}
		return io.EOF
	}
	return c.remember(errnoOf(terr))
}

// Write implements net.Conn. It returns when all of b is in the send buffer.
func (c *tcpConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.writeAll(b)
	if err != nil {
		return n, c.opError("write", err)
	}
	return n, nil
}

// writeAll is Write without the wrapping of errors.
func (c *tcpConn) writeAll(b []byte) (int, error) {
	var r bytes.Reader
	done := 0
	for done < len(b) {
		if c.writeBy.passed() {
			return done, os.ErrDeadlineExceeded
		}
		r.Reset(b[done:])
		n, err := c.enqueue(&r)
		done += n
		if err != nil {
			return done, err
		}
		if n > 0 {
			continue
		}
		if err := c.wait(c.writable, &c.writeBy); err != nil {
			return done, err
		}
	}
	return done, nil
}

// enqueue gives the endpoint what it takes of p. It returns 0 and nil when the send buffer is full.
func (c *tcpConn) enqueue(p tcpip.Payloader) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, terr := c.ep.Write(p, tcpip.WriteOptions{})
	if terr != nil && c.closed.Load() {
		return int(n), net.ErrClosed
	}
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock:
		return int(n), nil
	case *tcpip.ErrClosedForSend:
		if err := c.failure(); err != nil {
			return int(n), err
		}
		return int(n), errnoOf(terr)
	}
	return int(n), c.remember(errnoOf(terr))
}

// Close implements net.Conn: what was written is still delivered, and a FIN behind it; what was not read makes it a RST.
func (c *tcpConn) Close() error {
	c.end(c.ep.Close)
	return nil
}

// Abort closes the connection with a RST; what was not delivered is thrown away.
func (c *tcpConn) Abort() { c.end(c.ep.Abort) }

// end closes the endpoint by how, once.
func (c *tcpConn) end(how func()) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.closed.Swap(true) {
		return
	}
	how()
	for i := range c.entries {
		c.wq.EventUnregister(&c.entries[i])
	}
	signal(c.readable).NotifyEvent(0)
	signal(c.writable).NotifyEvent(0)
	(*hangup)(c).NotifyEvent(0)
}

// CloseRead refuses further bytes from the client.
func (c *tcpConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite ends the stream to the client with a FIN.
func (c *tcpConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *tcpConn) shutdown(how tcpip.ShutdownFlags) error {
	if c.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	if terr := c.ep.Shutdown(how); terr != nil {
		return c.opError("close", errnoOf(terr))
	}
	return nil
}

// LocalAddr implements net.Conn: the address the client dialled.
func (c *tcpConn) LocalAddr() net.Addr { return tcpAddr(c.ep.GetLocalAddress()) }

// RemoteAddr implements net.Conn: the client's address.
func (c *tcpConn) RemoteAddr() net.Addr { return tcpAddr(c.ep.GetRemoteAddress()) }

func tcpAddr(a tcpip.FullAddress, err tcpip.Error) net.Addr {
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(addrPort(a.Addr, a.Port))
}

// SetDeadline implements net.Conn.
func (c *tcpConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *tcpConn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *tcpConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

func (c *tcpConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
