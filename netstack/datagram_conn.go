package netstack

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/weir-dev/weir/flow"
)

// timeoutError is why the door itself ended a datagram flow. It counts as os.ErrDeadlineExceeded, so that the flow's
// end is recorded as a timeout.
type timeoutError string

const (
	errIdle    timeoutError = "flow idle"
	errEvicted timeoutError = "flow evicted by a newer one"
)

func (e timeoutError) Error() string { return string(e) }

// Timeout implements net.Error.
func (timeoutError) Timeout() bool { return true }

// Temporary implements net.Error.
func (timeoutError) Temporary() bool { return false }

// Is makes errors.Is(err, os.ErrDeadlineExceeded) true.
func (timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// errRejected is what a flow's conn returns once it was rejected.
var errRejected = errors.New("flow rejected")

// datagramFlow is one flow of a datagramTable, and the net.Conn that Accept returns: one Read takes one datagram of the
// sandbox, cut to the buffer's length; one Write sends one into the sandbox. Read and Write end with a timeout once the
// flow was idle or evicted, and with net.ErrClosed once it or the stack was closed.
type datagramFlow struct {
	table *datagramTable
	key   datagramKey

	// last is when a datagram passed in either direction, in the table's time.
	last      atomic.Int64
	answered  atomic.Bool
	idleTimer *time.Timer

	// limit is how long datagrams may be that are not to be cut, toldTooBig when the program was last told, in the table's
	// time; see datagram_limit.go.
	limit      atomic.Pointer[func() int]
	toldTooBig atomic.Int64

	// The table's mutex guards these: elem is the place in table.recent, which had its reason at ordered.
	elem    *list.Element
	ordered int64
	pending bool

	// mu guards what follows; readable is signalled when any of it lets a Read return.
	mu          sync.Mutex
	readable    sync.Cond
	queue       []*buffer.View
	queuedBytes int64
	quote       [maxQuote]byte
	quoteLen    int
	accepted    bool
	err         error          // why the flow ended; nil while it lives
	sink        flow.BatchSink // that of Forward while it runs
	sinkErr     error          // what it answered to the read loop
	direct      bool           // the read loop is calling it
	forwarding  bool           // Forward is
	readUntil   time.Time
	readExpired bool
	readTimer   *time.Timer
	writeUntil  time.Time
}

func newDatagramFlow(t *datagramTable, key datagramKey) *datagramFlow {
	f := &datagramFlow{table: t, key: key}
	f.readable.L = &f.mu
	return f
}

// handle is the goroutine of a flow. What the handler leaves open is closed, without a word to the sandbox.
func (f *datagramFlow) handle() {
	defer f.Close()
	src := f.key.src
	if f.table.cfg.network == "icmp" {
		src = netip.AddrPortFrom(src.Addr(), 0)
	}
	f.table.cfg.handler.Handle(f.table.cfg.ctx, flow.Arrival{
		Network: f.table.cfg.network,
		Src:     src,
		Dst:     f.key.dst,
		Accept:  f.accept,
		Reject:  f.reject,
	})
}

// accept implements flow.Arrival.Accept.
func (f *datagramFlow) accept() (net.Conn, error) {
	f.table.mu.Lock()
	f.table.settle(f)
	f.table.mu.Unlock()

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, fmt.Errorf("accept %s flow: %w", f.table.cfg.network, f.err)
	}
	f.accepted = true
	return f, nil
}

// reject implements flow.Arrival.Reject.
func (f *datagramFlow) reject(reason flow.Reason) error {
	if !f.table.refuse(f, reason) {
		return nil
	}
	f.mu.Lock()
	accepted, quote := f.accepted, f.quote[:f.quoteLen]
	f.mu.Unlock()
	// Nobody writes to quote any more: the flow has left the table.
	if reason != flow.TimedOut || accepted {
		f.table.cfg.unreachable(reason, quote)
	}
	return nil
}

// touch notes that a datagram passed, and returns when.
func (f *datagramFlow) touch() int64 {
	now := int64(f.table.now())
	f.last.Store(now)
	return now
}

// checkIdle is the idle timer. It ends the flow, or goes off again when the flow could be idle next.
func (f *datagramFlow) checkIdle() {
	t := f.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] != f {
		return
	}
	quiet := t.now() - time.Duration(f.last.Load())
	if left := t.cfg.idle(f.key.dst, f.answered.Load()) - quiet; left > 0 {
		f.idleTimer.Reset(left)
		return
	}
	t.endLocked(f, errIdle)
}

// push queues payload, which it owns then, and reports false when the queue is full. The first datagram always fits.
func (f *datagramFlow) push(payload *buffer.View, quote []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quoteLen = copy(f.quote[:], quote)
	if len(f.queue) >= maxFlowQueue || f.queuedBytes+datagramCost(payload) > maxFlowBytes {
		return false
	}
	f.queue = append(f.queue, payload)
	f.queuedBytes += datagramCost(payload)
	f.readable.Signal()
	return true
}

// pop takes the oldest queued datagram; there must be one. An emptied queue keeps no memory worth the name.
func (f *datagramFlow) pop() *buffer.View {
	p := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	if len(f.queue) == 0 {
		f.queue = nil
	}
	cost := datagramCost(p)
	f.queuedBytes -= cost
	f.table.queued.Add(-cost)
	return p
}

// shut makes every Read and Write fail with err from now on, and drops what is queued.
func (f *datagramFlow) shut(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	for len(f.queue) > 0 {
		f.pop().Release()
	}
	if f.readTimer != nil {
		f.readTimer.Stop()
	}
	f.readable.Broadcast()
}

// Read implements net.Conn. It returns 0, nil for an empty datagram.
func (f *datagramFlow) Read(p []byte) (int, error) {
	datagram, err := f.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, datagram.AsSlice())
	datagram.Release()
	return n, nil
}

// Await waits until a Read has something to return: a datagram or an error.
func (f *datagramFlow) Await() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.await()
	return nil
}

// await is Await. The caller holds f.mu.
func (f *datagramFlow) await() {
	for f.err == nil && !f.readExpired && len(f.queue) == 0 {
		f.readable.Wait()
	}
}

// next waits for a datagram, which is the caller's then.
func (f *datagramFlow) next() (*buffer.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.await()
	switch {
	case f.err != nil:
		return nil, f.opError("read", f.err)
	case f.readExpired:
		return nil, f.opError("read", os.ErrDeadlineExceeded)
	}
	return f.pop(), nil
}

// Write implements net.Conn. It fails with EMSGSIZE when p is more than a datagram of the flow's protocol can hold. A
// datagram that the sandbox's device has no room for is lost, as on any network; the link counts it.
func (f *datagramFlow) Write(p []byte) (int, error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	if _, err := f.table.cfg.send(f.key, [][]byte{p}); err != nil {
		return 0, f.opError("write", err)
	}
	return len(p), nil
}

// Close implements net.Conn. The sandbox is not told: its next datagram is a new flow.
func (f *datagramFlow) Close() error {
	f.table.end(f, net.ErrClosed)
	return nil
}

// LocalAddr is the address the sandbox sent to.
func (f *datagramFlow) LocalAddr() net.Addr { return f.netAddr(f.key.dst) }

// RemoteAddr is the sandbox's end.
func (f *datagramFlow) RemoteAddr() net.Addr { return f.netAddr(f.key.src) }

func (f *datagramFlow) netAddr(ap netip.AddrPort) net.Addr {
	if f.table.cfg.network == "icmp" {
		return &net.IPAddr{IP: ap.Addr().AsSlice()}
	}
	return net.UDPAddrFromAddrPort(ap)
}

func (f *datagramFlow) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: f.table.cfg.network, Source: f.LocalAddr(), Addr: f.RemoteAddr(), Err: err}
}
