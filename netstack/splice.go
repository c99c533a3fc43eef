package netstack

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// spliceIovecs is how many pieces of the receive queue go to the host's socket in one writev.
	spliceIovecs = 64

	// spliceSegment is what gVisor sends in one packet at most, spliceRead what one Write of the endpoint takes from the host's
	// socket. It is a multiple, and so is a part of it that is larger than one: what remains would be a packet of its own.
	spliceSegment = gsoMaxSize - header.TCPTotalHeaderMaximumSize - 1
	spliceRead    = 4 * spliceSegment

	// copySize is the buffer through which small amounts are copied: below it, one copy is cheaper than the system call
	// that asks how much there is. It is taken from a pool and never held while waiting.
	copySize = 16 << 10
)

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// carrier is a reader or writer that stands for a connection and wants to know of bytes moved past it. It is not enough
// to have a NetConn method: a TLS connection has one too, and must not be passed by.
type carrier interface {
	NetConn() net.Conn
	Carried(n int)
}

// socketed is a connection whose bytes a kernel socket carries as they are, without being the socket: a flow that another
// process carries on. What an end of the socket's stream means only the connection knows (relay.Socketed).
type socketed interface {
	net.Conn
	SyscallConn() (syscall.RawConn, error)
	Ended(err error) error
}

// hostEnd is the other end of a connection: conn is the one with the kernel socket raw.
type hostEnd struct {
	conn    net.Conn
	raw     syscall.RawConn
	ended   func(error) error // what the end or the error of the socket means
	carried func(int)         // counts bytes that were moved past conn
}

// hostError is what the host's socket met, as against what happened to the connection here.
type hostError struct{ error }

// verdict returns what err means, which may be a [hostError].
func (h *hostEnd) verdict(err error) error {
	if met, ok := err.(hostError); ok {
		return h.ended(met.error)
	}
	return err
}

// hostSocket returns the kernel socket behind v, nil when there is none. Where it cannot be had any more, raw is nil.
func hostSocket(v any) *hostEnd {
	h := &hostEnd{carried: func(int) {}}
	if c, ok := v.(carrier); ok {
		h.carried, v = c.Carried, c.NetConn()
	}
	switch c := v.(type) {
	case *net.TCPConn:
		h.conn, h.ended = c, func(err error) error { return err }
		h.raw, _ = c.SyscallConn()
	case socketed:
		h.conn, h.ended = c, c.Ended
		h.raw, _ = c.SyscallConn()
	default:
		return nil
	}
	return h
}

// attach makes host the socket that hangup wakes up. A successful attach is followed by detach.
func (c *tcpConn) attach(host *hostEnd) error {
	if host.raw == nil {
		return net.ErrClosed
	}
	c.hostMu.Lock()
	c.host = host.conn
	c.hostUsers++
	c.hostMu.Unlock()
	if err := c.failure(); err != nil { // after host is set: a hangup from here on wakes it up
		c.detach()
		return err
	}
	return nil
}

// detach lets go of the host: a direction that carries no longer has nobody to wake, and the deadline of a hangup would
// break what the other direction does with the socket outside of the fast paths.
func (c *tcpConn) detach() {
	c.hostMu.Lock()
	defer c.hostMu.Unlock()
	if c.hostUsers--; c.hostUsers == 0 {
		c.host = nil
	}
}

// rouse is called when waiting for the host ended with a deadline, that is by hangup. It returns what broke the
// connection, or nil when it came to a regular end and what is left may be carried on. clear takes back the deadline of
// the caller's own direction: the other one may not have seen its own yet.
func (c *tcpConn) rouse(err error, clear func(time.Time) error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) || !c.hup.Load() {
		return err
	}
	clear(time.Time{}) // first this, then the question: a later hangup sets it again
	return c.failure()
}

// WriteTo implements io.WriterTo: it carries the client's bytes to w until the end of the client's stream. When w is, or
// stands for, one with a kernel socket, they go from the receive queue to its socket by writev, and stay in the queue until the
// socket has taken them, so that a slow reader closes the client's window. The read deadline holds between bytes.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	host := hostSocket(w)
	if host == nil {
		return c.copyTo(w)
	}
	if err := c.attach(host); err != nil {
		return 0, c.opError("splice", err)
	}
	defer c.detach()
	var total int64
	var n int
	var werr error
	write := func(fd uintptr) bool {
		n, werr = c.writeHost(int(fd))
		return werr != unix.EAGAIN
	}
	for {
		n = 0
		if err := host.raw.Write(write); err != nil {
			werr = c.rouse(err, host.conn.SetWriteDeadline)
			if werr == nil {
				continue
			}
		}
		total += int64(n)
		host.carried(n)
		werr = host.verdict(werr)
		switch {
		case werr == io.EOF:
			return total, nil
		case werr != nil:
			return total, c.opError("splice", werr)
		case n > 0:
			continue
		}
		if err := c.wait(c.readable, &c.readBy); err != nil {
			return total, c.opError("splice", err)
		}
	}
}

// writeHost writes what is in the receive queue to the socket fd and consumes what it took. It returns 0 and nil when
// the queue is empty, EAGAIN when the socket is full.
func (c *tcpConn) writeHost(fd int) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	list := iovecLists.Get().(*iovecList)
	defer list.free()
	res, terr := c.ep.Read(list, tcpip.ReadOptions{Peek: true})
	if res.Count == 0 {
		return 0, c.readError(terr)
	}
	n, err := writevRaw(fd, list.iovs)
	for err == unix.EINTR {
		n, err = writevRaw(fd, list.iovs)
	}
	if err == unix.EAGAIN {
		return 0, err
	}
	if err != nil {
		return 0, hostError{os.NewSyscallError("writev", err)}
	}
	rest := discarder(n)
	if res, _ := c.ep.Read(&rest, tcpip.ReadOptions{}); res.Count != n {
		return n, errors.New("receive queue changed under its only reader")
	}
	c.ep.ModerateRecvBuf(n)
	return n, nil
}

// iovecList is an io.Writer that keeps where the bytes are instead of the bytes.
type iovecList struct{ iovs []unix.Iovec }

var iovecLists = sync.Pool{New: func() any {
	return &iovecList{iovs: make([]unix.Iovec, 0, spliceIovecs)}
}}

// Write implements io.Writer for Endpoint.Read.
func (l *iovecList) Write(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, nil
	case len(l.iovs) == cap(l.iovs):
		return 0, io.ErrShortBuffer
	}
	l.iovs = append(l.iovs, iovec(b))
	return len(b), nil
}

func (l *iovecList) free() {
	clear(l.iovs)
	l.iovs = l.iovs[:0]
	iovecLists.Put(l)
}

// discarder is an io.Writer that takes a number of bytes and no more.
type discarder int

// Write implements io.Writer for Endpoint.Read.
func (d *discarder) Write(b []byte) (int, error) {
	n := min(len(b), int(*d))
	*d -= discarder(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
