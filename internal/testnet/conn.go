// Package testnet is the network of tests: connections in memory that behave as the kernel's do where it matters to
// weir (half-close, reset, deadlines, back-pressure), and run under testing/synctest, where time is free.
package testnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many octets one direction holds before its writer blocks.
const window = 64 << 10

// Pair returns the two ends of a stream connection. Each end implements CloseWrite and Abort besides net.Conn.
func Pair() (a, b *Conn) {
	one, two := newPipe(), newPipe()
	return &Conn{in: one, out: two}, &Conn{in: two, out: one}
}

// Conn is one end of a connection that [Pair] made.
type Conn struct {
	in, out       *pipe
	Local, Remote net.Addr
}

func (c *Conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *Conn) Write(b []byte) (int, error) { return c.out.write(b) }

// CloseWrite ends this end's stream: the peer reads io.EOF once it has read the rest.
func (c *Conn) CloseWrite() error { c.out.end(io.EOF); return nil }

// Abort is a RST: the peer's reads and writes fail with ECONNRESET, what was not read yet is lost.
func (c *Conn) Abort() {
	c.out.reset(syscall.ECONNRESET)
	c.in.reset(syscall.ECONNRESET)
}

// Close ends both directions. As with a kernel socket, unread input turns it into a reset.
func (c *Conn) Close() error {
	if c.in.abandon() {
		c.out.reset(syscall.ECONNRESET)
	}
	c.out.end(io.EOF)
	return nil
}

func (c *Conn) LocalAddr() net.Addr  { return c.Local }
func (c *Conn) RemoteAddr() net.Addr { return c.Remote }

func (c *Conn) SetDeadline(t time.Time) error {
	c.in.readDeadline.set(c.in, t)
	c.out.writeDeadline.set(c.out, t)
	return nil
}
func (c *Conn) SetReadDeadline(t time.Time) error  { c.in.readDeadline.set(c.in, t); return nil }
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.writeDeadline.set(c.out, t); return nil }

// pipe is one direction.
type pipe struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  []byte

	ended  error // what the reader gets once buf is empty; nil while the stream is open
	broken error // what both get at once
	closed bool  // the reader has gone

	readDeadline, writeDeadline deadline
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, net.ErrClosed
		case p.broken != nil:
			return 0, p.broken
		case p.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.cond.Broadcast()
			return n, nil
		case p.ended != nil:
			return 0, p.ended
		case len(b) == 0:
			return 0, nil
		}
		p.cond.Wait()
	}
}

func (p *pipe) write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.broken != nil:
			return written, p.broken
		case p.ended != nil:
			return written, net.ErrClosed
		case p.closed:
			return written, syscall.EPIPE
		case p.writeDeadline.passed:
			return written, os.ErrDeadlineExceeded
		case len(b) == 0:
			return written, nil
		}
		if room := window - len(p.buf); room > 0 {
			n := min(room, len(b))
			p.buf = append(p.buf, b[:n]...)
			b, written = b[n:], written+n
			p.cond.Broadcast()
			continue
		}
		p.cond.Wait()
	}
}

func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = err
	}
	p.cond.Broadcast()
}

func (p *pipe) reset(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.buf = err, nil
	p.cond.Broadcast()
}

// abandon is the reader's close; it reports whether anything was left unread.
func (p *pipe) abandon() (unread bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	unread = len(p.buf) > 0 && !p.closed
	p.closed, p.buf = true, nil
	p.cond.Broadcast()
	return unread
}

// deadline belongs to a pipe and is guarded by its lock.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (d *deadline) set(p *pipe, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		d.passed = true
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if d.timer == timer {
				d.passed = true
				p.cond.Broadcast()
			}
		})
		d.timer = timer
	}
	p.cond.Broadcast()
}
