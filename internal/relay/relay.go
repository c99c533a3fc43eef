// Package relay carries the bytes of one accepted TCP flow between the sandbox's end (the client) and the upstream.
//
// A relay has two halves that know nothing of each other. The downward half (upstream to client) can run while the
// upward half has not begun: a server that speaks first is not held up by the reading of the client's first bytes.
// Each half is one copy, to which the connections bring their own fast paths: splice(2) between two *net.TCPConn, and
// whatever a connection implements as io.WriterTo or io.ReaderFrom. What a half meets is told to the other side as TCP
// would: an end of stream becomes a half-close, a reset becomes a reset. There is no idle limit.
//
// A flow costs two goroutines: the caller's, on which Up and Wait run, and the downward half's. While it is idle it
// holds no buffer larger than smallBuffer.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Cause is how a flow ended, in the words of the event log's "close".
type Cause string

const (
	Fin        Cause = "fin"         // both sides ended their streams
	Rst        Cause = "rst"         // one side reset the connection, and so was the other
	Timeout    Cause = "timeout"     // a side stopped answering
	Policy     Cause = "policy"      // the judge said no
	TunnelLost Cause = "tunnel-lost" // the route went away
	Exit       Cause = "exit"        // the sandbox, or weir, ended
	Error      Cause = "error"       // anything else
)

// ErrDoneWatching is returned by Options.WatchUp when it has seen enough: the chunk is written and no later one shown.
var ErrDoneWatching = errors.New("done watching")

// Options say how the upward half begins.
type Options struct {
	// FirstUp holds bytes of the client that were read already; they are written first, and WatchUp does not see them.
	// They are the relay's until FirstUpDone is called, or Up returns.
	FirstUp []byte

	// FirstUpDone, when set, is called once FirstUp is written, which may be long before Up returns.
	FirstUpDone func()

	// WatchUp, when set, is shown each chunk of the client's bytes before it is written upstream. It returns nil to be
	// shown the next one, ErrDoneWatching to let the rest pass unseen, or any other error to reset both sides before
	// the chunk leaves; the flow's cause is then Policy. It must not keep the slice.
	WatchUp func(chunk []byte) error
}

// Stats is how a flow ended.
type Stats struct {
	Sent, Received int64 // bytes written upstream, bytes written to the client
	Cause          Cause
	Up, Down       error // what ended each half; nil after an end of stream
}

// Relay is one flow. Make it with New; call Start, Up and Wait once each, in this order; Reset and the byte counts may
// be used at any time from any goroutine.
type Relay struct {
	client, upstream net.Conn

	sent, received atomic.Int64
	stop           func() bool // ends the watch over the context
	downEnded      atomic.Bool // the downward half is over
	upEnded        atomic.Bool // the client's stream has ended and upstream has been told
	closedWhole    atomic.Bool // a side without half-close was closed at the end of the other's stream

	down    sync.WaitGroup
	upErr   error
	downErr error
	endMu   sync.Mutex
	cause   Cause // "" while nothing went wrong; the first one stays
}

// New prepares a relay between two connections, which it owns from now on. When ctx is cancelled both are reset with
// cause Exit, but an upstream that has been told the end of the client's stream is only closed.
func New(ctx context.Context, client, upstream net.Conn) *Relay {
	r := &Relay{client: client, upstream: upstream}
	r.stop = context.AfterFunc(ctx, func() { r.Reset(Exit) })
	return r
}

// Pipe carries a flow from beginning to end: New, Start, Up and Wait in one.
func Pipe(ctx context.Context, client, upstream net.Conn, opts Options) Stats {
	r := New(ctx, client, upstream)
	r.Start()
	r.Up(opts)
	return r.Wait()
}

// Start begins the downward half on a goroutine of its own.
func (r *Relay) Start() {
	r.down.Add(1)
	go r.runDown()
}

// runDown carries upstream's bytes to the client until upstream ends its stream or something breaks.
func (r *Relay) runDown() {
	defer r.down.Done()
	r.downErr = r.finish(r.client, carry(r.client, r.upstream, &r.received))
	r.downEnded.Store(true)
}

// Over reports whether the downward half has come to its end. When Up has returned as well, Wait does not wait.
func (r *Relay) Over() bool { return r.downEnded.Load() }

// Up carries the client's bytes upstream until the client ends its stream or something breaks, and returns what broke:
// nil after an end of stream.
func (r *Relay) Up(opts Options) error {
	r.upErr = r.finish(r.upstream, r.runUp(opts))
	r.upEnded.Store(r.upErr == nil)
	return r.upErr
}

func (r *Relay) runUp(opts Options) error {
	if len(opts.FirstUp) > 0 {
		if _, err := (meteredWriter{r.upstream, &r.sent}).Write(opts.FirstUp); err != nil {
			return err
		}
	}
	if opts.FirstUpDone != nil {
		opts.FirstUpDone()
	}
	if opts.WatchUp != nil {
		switch err := r.watch(opts.WatchUp); {
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, ErrDoneWatching):
			return err
		}
	}
	return carry(r.upstream, r.client, &r.sent)
}

// watch is the upward half while somebody looks on. It ends with io.EOF at the end of the client's stream, with
// ErrDoneWatching when the rest may pass unseen.
func (r *Relay) watch(show func([]byte) error) error {
	buf := make([]byte, smallBuffer)
	for {
		n, err := r.client.Read(buf)
		if n > 0 {
			verdict := show(buf[:n])
			if verdict != nil && !errors.Is(verdict, ErrDoneWatching) {
				r.Reset(Policy)
				return verdict
			}
			if _, werr := (meteredWriter{r.upstream, &r.sent}).Write(buf[:n]); werr != nil {
				return werr
			}
			if verdict != nil && err == nil {
				return verdict
			}
		}
		if err != nil {
			return err
		}
	}
}

// finish tells dst how the half that wrote to it ended: an end of stream is passed on as a half-close, anything else
// resets both sides. It returns the error that counts for the half.
func (r *Relay) finish(dst net.Conn, err error) error {
	if r.closedWhole.Load() && isClosed(err) {
		return nil // by the other half, which had no other way to tell the end of its stream
	}
	if err == nil {
		err = r.closeWrite(dst)
	}
	if err != nil {
		r.reset(causeOf(err))
	}
	return err
}

// closeWrite ends the stream towards dst. A connection that has no half-close is closed whole: its peer must see the end.
func (r *Relay) closeWrite(dst net.Conn) error {
	half, ok := dst.(interface{ CloseWrite() error })
	if !ok {
		r.closedWhole.Store(true)
		return dst.Close()
	}
	err := half.CloseWrite()
	if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, net.ErrClosed) {
		return nil // the peer is gone already; the other half finds out by itself
	}
	return err
}

// Wait waits for the downward half, closes both connections and says how the flow ended. Up must have returned, or
// never be called: then Reset is what ends the downward half before its time.
func (r *Relay) Wait() Stats {
	r.down.Wait()
	r.stop()
	r.endMu.Lock()
	defer r.endMu.Unlock()
	cause := r.cause
	if cause == "" {
		cause = Fin
		r.client.Close()
		r.upstream.Close()
	}
	return Stats{Sent: r.Sent(), Received: r.Received(), Cause: cause, Up: r.upErr, Down: r.downErr}
}

// Reset tears both sides down at once, with a RST where the connection can send one. The first cause is the one that
// Wait reports; later calls do nothing.
func (r *Relay) Reset(why Cause) { r.reset(why) }

func (r *Relay) reset(why Cause) {
	r.endMu.Lock()
	defer r.endMu.Unlock()
	if r.cause != "" {
		return
	}
	r.cause = why
	// Closing a kernel socket waits for what is under way on it, and a half that splices holds on to the one side while it
	// waits for the other: first both stop waiting.
	r.client.SetDeadline(time.Unix(1, 0))
	r.upstream.SetDeadline(time.Unix(1, 0))
	abort(r.client)
	if why == Exit && r.upEnded.Load() {
		r.upstream.Close() // a program that has ended said all this; the kernel goes on delivering it
		return
	}
	abort(r.upstream)
}

// Sent is the number of the client's bytes that upstream has taken so far.
func (r *Relay) Sent() int64 { return r.sent.Load() }

// Received is the number of upstream's bytes that the client's connection has taken so far.
func (r *Relay) Received() int64 { return r.received.Load() }
