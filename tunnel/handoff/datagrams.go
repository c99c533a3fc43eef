//go:build linux

package handoff

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// Datagrams is the data path's end of a UDP flow. Sends may be concurrent, receives not. Make one with [Conn.OpenDatagrams].
type Datagrams struct {
	c    *net.UnixConn
	raw  syscall.RawConn
	conn *Conn
	id   uint64
	by   tunnel.Identity

	largest atomic.Int64
	dropped atomic.Uint64
	closed  atomic.Bool

	why atomic.Pointer[tunnel.Error] // how the flow ended; nil before

	list [][]byte // of ReceiveBatch
	rest []byte   // the batch that Receive is in the middle of
}

var _ tunnel.Batched = (*Datagrams)(nil)

func newDatagrams(c *Conn, u *net.UnixConn, m *message) *Datagrams {
	d := &Datagrams{c: u, conn: c, id: m.id, by: m.by}
	d.raw, _ = u.SyscallConn() // it fails for a closed connection only
	d.largest.Store(int64(min(m.limit, maxDatagram)))
	return d
}

// batchBuffers hold one message of a UDP flow. An idle flow holds none.
var batchBuffers = sync.Pool{New: func() any { return new([maxBatch]byte) }}

// By implements [tunnel.Datagrams].
func (d *Datagrams) By() tunnel.Identity { return d.by }

// MaxDatagram implements [tunnel.Datagrams]. It is as new as the last thing received.
func (d *Datagrams) MaxDatagram() int { return int(d.largest.Load()) }

// Dropped is how many datagrams found no room so far.
func (d *Datagrams) Dropped() uint64 { return d.dropped.Load() }

// Send implements [tunnel.Datagrams].
func (d *Datagrams) Send(datagram []byte) error { return d.SendBatch([][]byte{datagram}) }

// SendBatch implements [tunnel.Batched]: what there is no room for is lost and counted.
func (d *Datagrams) SendBatch(datagrams [][]byte) error {
	if why := d.why.Load(); why != nil {
		return why
	}
	buf := batchBuffers.Get().(*[maxBatch]byte)
	defer batchBuffers.Put(buf)
	b, count := buf[:0], 0
	for _, datagram := range datagrams {
		if len(datagram) > maxDatagram {
			return tunnel.Errorf(tunnel.Malformed, "a datagram of %d octets", len(datagram))
		}
		next, ok := appendDatagram(b, datagram)
		if !ok {
			if err := d.send(b, count); err != nil {
				return err
			}
			count = 0
			next, _ = appendDatagram(buf[:0], datagram)
		}
		b = next
		count++
	}
	if count == 0 {
		return nil
	}
	return d.send(b, count)
}

// send writes one message if the socket takes it now.
func (d *Datagrams) send(b []byte, datagrams int) error {
	var errno error
	err := d.raw.Write(func(fd uintptr) bool {
		errno = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		return true
	})
	switch {
	case err != nil:
		return d.failure(err)
	case errno == nil:
		return nil
	}
	d.dropped.Add(uint64(datagrams))
	if errors.Is(errno, unix.EPIPE) {
		return d.over()
	}
	return nil
}

// over is how the flow ended, nil while the edge's word is still to be received.
func (d *Datagrams) over() error {
	if why := d.why.Load(); why != nil {
		return why
	}
	select {
	case <-d.conn.done:
		return errLost()
	default:
		return nil
	}
}

// Receive implements [tunnel.Datagrams].
func (d *Datagrams) Receive(b []byte) (int, error) {
	for len(d.rest) == 0 {
		buf, n, err := d.read()
		if err != nil {
			return 0, err
		}
		batch, err := d.message(buf[:n])
		d.rest = append([]byte(nil), batch...)
		batchBuffers.Put(buf)
		if err != nil {
			return 0, err
		}
	}
	datagram, rest, ok := nextDatagram(d.rest)
	if !ok {
		d.rest = nil
		return 0, errMalformed
	}
	d.rest = rest
	return copy(b, datagram), nil
}

// ReceiveBatch implements [tunnel.Batched].
func (d *Datagrams) ReceiveBatch(take func(datagrams [][]byte) error) error {
	for {
		buf, n, err := d.read()
		if err != nil {
			return err
		}
		batch, err := d.message(buf[:n])
		if err == nil {
			d.list, err = splitBatch(d.list[:0], batch)
		}
		if err == nil && len(d.list) > 0 {
			err = take(d.list)
		}
		clear(d.list)
		batchBuffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

// read waits for a message and takes a buffer when there is one.
func (d *Datagrams) read() (*[maxBatch]byte, int, error) {
	buf, n, err := readMessage(d.raw)
	if err != nil {
		return nil, 0, d.failure(err)
	}
	return buf, n, nil
}

// readMessage reads one message of a SOCK_SEQPACKET socket into a buffer of batchBuffers, io.EOF for its end.
func readMessage(raw syscall.RawConn) (buf *[maxBatch]byte, n int, err error) {
	werr := raw.Read(func(fd uintptr) bool {
		buf = batchBuffers.Get().(*[maxBatch]byte)
		for {
			n, _, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
			// A socket whose other end was closed with something unread says so once, before what is left to read.
			if err != unix.EINTR && err != unix.ECONNRESET {
				break
			}
		}
		if err == unix.EAGAIN {
			batchBuffers.Put(buf)
			return false
		}
		return true
	})
	if werr != nil {
		return nil, 0, werr
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		batchBuffers.Put(buf)
		return nil, 0, err
	}
	return buf, n, nil
}

// message returns the datagrams of a batch, none for a notice.
func (d *Datagrams) message(b []byte) ([]byte, error) {
	if b[0] == recordBatch {
		return b[1:], nil
	}
	largest, end, err := decodeNotice(b)
	switch {
	case err != nil:
		return nil, err
	case end != nil:
		d.why.Store(end)
		return nil, end
	}
	d.largest.Store(int64(largest))
	return nil, nil
}

// failure is what err of the socket says of the flow. The word about its end comes by the same socket: an end without one
// means that the edge has gone.
func (d *Datagrams) failure(err error) error {
	switch why := d.why.Load(); {
	case why != nil:
		return why
	case d.closed.Load():
		return net.ErrClosed
	case isTimeout(err):
		return err
	}
	return errLost()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// SetReadDeadline bounds the wait of Receive and ReceiveBatch, as in [net.Conn].
func (d *Datagrams) SetReadDeadline(t time.Time) error { return d.c.SetReadDeadline(t) }

// Close implements [tunnel.Datagrams]: the edge sees the end of the socket.
func (d *Datagrams) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return d.c.Close()
}
