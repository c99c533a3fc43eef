//go:build linux

package tproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/batch"
)

// errIdle is what a flow's conn returns once it was quiet for too long, or had to make room.
var errIdle error = idleError{}

type idleError struct{}

func (idleError) Error() string        { return "flow is idle" }
func (idleError) Timeout() bool        { return true }
func (idleError) Temporary() bool      { return false }
func (idleError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// udpFlow is one UDP flow, and the net.Conn that Accept returns. Datagrams that came to the listener before its socket was
// there are read first: those in the queue, and, before the first that its socket gives, those that the listener has not
// taken from its own yet.
type udpFlow struct {
	table    *udpTable
	listener *udpListener // where it began
	key      udpKey
	caughtUp bool // the listener has none of its datagrams any more; the reader's own

	last     atomic.Int64 // when a datagram passed, in the table's time
	answered atomic.Bool
	idle     *time.Timer

	// The table's mutex guards these.
	queue       [][]byte
	queuedBytes int
	lastPayload int
	settled     bool
	conn        *net.UDPConn // nil until accepted
	socket      *batch.Socket
	ended       error // why it is over; nil while it lives

	// deadline is the reader's own; mu guards it. See wake.
	mu       sync.Mutex
	deadline time.Time
}

func newUDPFlow(t *udpTable, l *udpListener, key udpKey) *udpFlow {
	f := &udpFlow{table: t, listener: l, key: key}
	f.touch()
	f.idle = time.AfterFunc(t.door.cfg.Limits.idleOf(key.dst, false), f.checkIdle)
	return f
}

// handle is the goroutine of a flow. What the handler leaves open is closed, without a word to the program.
func (f *udpFlow) handle(h flow.Handler) {
	defer f.Close()
	h.Handle(f.table.door.ctx, flow.Arrival{
		Network: "udp", Src: f.key.src, Dst: f.key.dst, Accept: f.accept, Reject: f.reject,
	})
}

// accept implements flow.Arrival.Accept.
func (f *udpFlow) accept() (net.Conn, error) {
	conn, err := f.table.door.connect(f.key)
	var socket *batch.Socket
	if err == nil {
		socket, err = batch.NewSocket(conn, &f.table.door.datagrams)
	}
	if err != nil {
		f.table.door.counters.add(dropUDPSocket)
		f.table.door.debug(err, "accept udp flow") // counted; a program that binds the address itself must not fill the terminal
		return nil, fmt.Errorf("accept udp flow: %w", err)
	}
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	f.table.settle(f)
	if f.ended != nil {
		conn.Close()
		return nil, fmt.Errorf("accept udp flow: %w", f.ended)
	}
	f.conn, f.socket = conn, socket
	return f, nil
}

// reject implements flow.Arrival.Reject.
func (f *udpFlow) reject(why flow.Reason) error {
	f.table.mu.Lock()
	payload, accepted := f.lastPayload, f.conn != nil
	f.table.mu.Unlock()
	if f.table.refuse(f, why) && (why != flow.TimedOut || accepted) {
		f.table.door.icmp.send(f.key.src, f.key.dst, payload, why)
	}
	return nil
}

func (f *udpFlow) touch() { f.last.Store(int64(f.table.now())) }

// checkIdle is the idle timer. It ends the flow, or goes off again when the flow could be idle next.
func (f *udpFlow) checkIdle() {
	t := f.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] != f {
		return
	}
	quiet := t.now() - time.Duration(f.last.Load())
	if left := t.door.cfg.Limits.idleOf(f.key.dst, f.answered.Load()) - quiet; left > 0 {
		f.idle.Reset(left)
		return
	}
	t.end(f, errIdle)
}

// wake lets a reader that waits on the socket look at the queue: a datagram may have come to the listener just before the
// socket was there. The caller holds the table's mutex.
func (f *udpFlow) wake() {
	if f.conn == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn.SetReadDeadline(time.Unix(1, 0))
}

// Read implements net.Conn. It returns 0, nil for an empty datagram.
func (f *udpFlow) Read(p []byte) (int, error) {
	for {
		if b := f.table.pop(f); b != nil {
			f.touch()
			return copy(p, b), nil
		}
		n, err := f.conn.Read(p)
		if err == nil && f.catchUp() {
			f.table.pushBehind(f, p[:n])
			continue
		}
		if err == nil {
			f.touch()
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || f.expired() {
			return 0, f.why(err)
		}
	}
}

// catchUp is called with the first of what the flow's socket gives. Whatever the program sent before that the kernel had given
// to the listener by then, so the listener takes all that it has: catchUp reports whether something is queued now, and so
// comes first.
func (f *udpFlow) catchUp() bool {
	if f.caughtUp {
		return false
	}
	f.caughtUp = true
	f.listener.catchUp()
	return f.table.waiting(f)
}

// Await waits until a Read has something to return.
func (f *udpFlow) Await() error {
	for !f.table.waiting(f) {
		err := batch.Await(f.conn)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || f.expired() {
			return f.why(err)
		}
	}
	return nil
}

// expired reports whether the reader's own deadline is over, and sets it again where it is not.
func (f *udpFlow) expired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.deadline.IsZero() && !time.Now().Before(f.deadline) {
		return true
	}
	f.conn.SetReadDeadline(f.deadline)
	return false
}

// why prefers the reason for which the table ended the flow.
func (f *udpFlow) why(err error) error {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	if f.ended != nil {
		return f.ended
	}
	return err
}

// Write implements net.Conn: one datagram to the program.
func (f *udpFlow) Write(p []byte) (int, error) {
	f.answered.Store(true)
	f.touch()
	n, err := f.conn.Write(p)
	if err != nil {
		return n, f.why(err)
	}
	return n, nil
}

// WriteBatch implements flow.BatchConn.
func (f *udpFlow) WriteBatch(datagrams [][]byte) (int64, error) {
	f.answered.Store(true)
	f.touch()
	_, sent, err := f.socket.Send(datagrams, true)
	if err != nil {
		return sent, f.why(err)
	}
	return sent, nil
}

// Forward implements flow.BatchConn.
func (f *udpFlow) Forward(sink flow.BatchSink) error {
	for {
		if err := f.forwardQueue(sink); err != nil {
			return err
		}
		var sunk error
		err := f.socket.Receive(func(datagrams [][]byte) error {
			f.touch()
			if f.catchUp() {
				if sunk = f.forwardQueue(sink); sunk != nil {
					return sunk
				}
			}
			sunk = sink.WriteBatch(datagrams)
			return sunk
		})
		switch {
		case sunk != nil:
			return sunk
		case !errors.Is(err, os.ErrDeadlineExceeded) || f.expired():
			return f.why(err)
		}
	}
}

// forwardQueue hands over what is queued.
func (f *udpFlow) forwardQueue(sink flow.BatchSink) error {
	for b := f.table.pop(f); b != nil; b = f.table.pop(f) {
		f.touch()
		if err := sink.WriteBatch([][]byte{b}); err != nil {
			return err
		}
	}
	return nil
}

// Close implements net.Conn. The program is not told: its next datagram is a new flow.
func (f *udpFlow) Close() error {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	f.table.end(f, net.ErrClosed)
	return nil
}

// LocalAddr is the address that the program sent to, RemoteAddr the program's end.
func (f *udpFlow) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(f.key.dst) }
func (f *udpFlow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(f.key.src) }

// SetDeadline, SetReadDeadline and SetWriteDeadline implement net.Conn.
func (f *udpFlow) SetDeadline(t time.Time) error {
	if err := f.SetReadDeadline(t); err != nil {
		return err
	}
	return f.SetWriteDeadline(t)
}

func (f *udpFlow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	return f.conn.SetReadDeadline(t)
}

func (f *udpFlow) SetWriteDeadline(t time.Time) error { return f.conn.SetWriteDeadline(t) }
