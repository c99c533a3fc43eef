//go:build linux

package handoff

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// Conn is the data path's end: flows and questions by way of the edge process. It implements [tunnel.Opener], and is safe for
// concurrent use. The Owner of what is asked is not sent: the edge knows it.
type Conn struct {
	control *control
	done    chan struct{} // closed when the edge process has gone

	posting sync.Mutex // the ids that the edge sees grow: they are given out and sent in one step
	last    uint64

	mu      sync.Mutex              // never held while sending: the receiver goes on whatever the edge does
	err     error                   // why, after done
	waiting map[uint64]chan<- reply // opens and queries under way
	flows   map[uint64]ender        // TCP flows whose end the edge has still to tell
}

var _ tunnel.Opener = (*Conn)(nil)

// reply is what an open or a query came to.
type reply struct {
	m    message
	body []byte
	flow any // *Stream or *Datagrams, after opened
}

// ender is a flow that an end is told to.
type ender interface{ end(*tunnel.Error) }

// NewConn takes over the data path's end of a control socket. It reads until Close is called or the edge has gone.
func NewConn(f *os.File) (*Conn, error) {
	u, err := unixConn(f)
	if err != nil {
		return nil, err
	}
	c := &Conn{control: &control{c: u, patience: DefaultPatience}, done: make(chan struct{}), waiting: map[uint64]chan<- reply{}, flows: map[uint64]ender{}}
	go c.receive()
	return c, nil
}

// Done is closed when the edge process has gone, or Close was called. Every flow has then ended as [tunnel.Lost], and new ones
// fail with [tunnel.NoClient].
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why, nil before Done.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and all that is open on it.
func (c *Conn) Close() error { return c.control.c.Close() }

// errGone answers what is asked of an edge that is not there any more.
func errGone() error { return tunnel.Errorf(tunnel.NoClient, "the edge process has ended") }

// OpenStream implements [tunnel.Opener]; the stream is a [*Stream].
func (c *Conn) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	r, err := c.ask(ctx, &message{kind: kindOpenStream, open: o})
	if err != nil {
		return nil, err
	}
	if s, ok := r.flow.(*Stream); ok {
		return s, nil
	}
	return nil, errMalformed
}

// OpenDatagrams implements [tunnel.Opener]; the flow is a [*Datagrams].
func (c *Conn) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	r, err := c.ask(ctx, &message{kind: kindOpenDatagrams, open: o})
	if err != nil {
		return nil, err
	}
	if d, ok := r.flow.(*Datagrams); ok {
		return d, nil
	}
	return nil, errMalformed
}

// Query implements [tunnel.Opener].
func (c *Conn) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	if len(q.Message) > maxQuery {
		return nil, tunnel.Identity{}, tunnel.Errorf(tunnel.Malformed, "a DNS message of %d octets", len(q.Message))
	}
	r, err := c.ask(ctx, &message{kind: kindQuery, open: tunnel.Open{Via: q.Via}, body: q.Message})
	if err != nil {
		return nil, tunnel.Identity{}, err
	}
	if r.m.kind != kindAnswer {
		return nil, tunnel.Identity{}, errMalformed
	}
	return r.body, r.m.by, nil
}

// ask sends m under a new id and waits for what becomes of it.
func (c *Conn) ask(ctx context.Context, m *message) (reply, error) {
	if err := ctx.Err(); err != nil {
		return reply{}, err
	}
	answer := make(chan reply, 1)
	if err := c.post(m, answer); err != nil {
		return reply{}, err
	}
	select {
	case r, ok := <-answer:
		return answered(r, ok)
	case <-ctx.Done():
	}
	c.mu.Lock()
	_, waits := c.waiting[m.id]
	delete(c.waiting, m.id)
	c.mu.Unlock()
	if !waits { // it came at the last moment
		r, ok := <-answer
		return answered(r, ok)
	}
	c.control.send(&message{kind: kindAbort, id: m.id, code: tunnel.Reset}, -1)
	return reply{}, ctx.Err()
}

func answered(r reply, ok bool) (reply, error) {
	switch {
	case !ok:
		return r, errGone()
	case r.m.kind == kindFailed:
		return r, r.m.fail()
	}
	return r, nil
}

// post sends m with the next id.
func (c *Conn) post(m *message, answer chan<- reply) error {
	c.posting.Lock()
	defer c.posting.Unlock()
	c.last++
	m.id = c.last
	if !c.await(m.id, answer) {
		return errGone()
	}
	if err := c.control.send(m, -1); err != nil {
		c.control.c.Close() // the receiver says so to all, this one among them
	}
	return nil
}

// await reports false when the edge has gone.
func (c *Conn) await(id uint64, answer chan<- reply) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.waiting[id] = answer
	return true
}

// receive hands what the edge says to those whom it is for, until the edge has gone.
func (c *Conn) receive() {
	b := make([]byte, maxMessage)
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		m, f, err := c.control.receive(b, rights)
		if err == nil {
			err = c.handle(&m, f)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Conn) handle(m *message, f *os.File) error {
	if m.kind != kindOpened && f != nil {
		f.Close()
		return errMalformed
	}
	switch m.kind {
	case kindOpened:
		return c.opened(m, f)
	case kindFailed, kindAnswer:
		c.deliver(reply{m: *m, body: append([]byte(nil), m.body...)})
	case kindEnd:
		c.mu.Lock()
		flow := c.flows[m.id]
		c.mu.Unlock()
		if flow != nil {
			flow.end(m.fail())
		}
	default:
		return errMalformed
	}
	return nil
}

// deliver reports false where nobody waits any more.
func (c *Conn) deliver(r reply) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.waiting[r.m.id]
	if answer == nil {
		return false
	}
	delete(c.waiting, r.m.id)
	answer <- r
	return true
}

// opened makes a flow of the descriptor. Nobody may wait for it any more: the edge was told so, and closes its end.
func (c *Conn) opened(m *message, f *os.File) error {
	if f == nil {
		return errMalformed
	}
	u, err := unixConn(f)
	if err != nil {
		return err
	}
	r := reply{m: *m}
	if u.LocalAddr().Network() == "unixpacket" {
		r.flow = newDatagrams(c, u, m)
	} else {
		s := newStream(c, u, m)
		r.flow = s
		c.mu.Lock()
		c.flows[m.id] = s
		c.mu.Unlock()
	}
	if !c.deliver(r) {
		c.forget(m.id)
		u.Close()
	}
	return nil
}

// forget ends the wait for a flow's end.
func (c *Conn) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flows, id)
}

// fail tells everybody that the edge has gone.
func (c *Conn) fail(err error) {
	c.control.c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for id, answer := range c.waiting {
		close(answer)
		delete(c.waiting, id)
	}
	for id, flow := range c.flows {
		flow.end(errLost())
		delete(c.flows, id)
	}
	close(c.done)
}

func errLost() *tunnel.Error { return tunnel.Errorf(tunnel.Lost, "the edge process has ended") }
