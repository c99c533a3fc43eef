package client

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// When a tunnel breaks, the sockets of its UDP flows wait parkedFor for the edge to open the same flows again over the next
// session: their peers, and the NATs on the way, then see the flow go on from the address that they know. The edge waits for 10
// seconds, from when it knows that the session is lost; that may be its 15 seconds of idle time after we do. At most maxParked
// wait; those that find no place are closed.
const (
	parkedFor = 25 * time.Second
	maxParked = 512
)

// socket is the socket of a UDP flow.
type socket struct {
	*net.UDPConn
	flow *flow
	park *park

	holder   atomic.Pointer[datagrams] // the session that has it, nil while it is parked
	active   atomic.Int64              // when something passed last, in nanoseconds since the flow began
	answered atomic.Bool
	closed   atomic.Bool

	mu   sync.Mutex
	idle *time.Timer // nil before the first session and after the end
}

func newSocket(c *net.UDPConn, f *flow, p *park) *socket {
	s := &socket{UDPConn: c, flow: f, park: p}
	s.mu.Lock()
	s.idle = time.AfterFunc(unansweredFor, s.look)
	s.mu.Unlock()
	return s
}

// hold gives the socket to a session.
func (s *socket) hold() *datagrams {
	d := &datagrams{socket: s}
	_ = s.UDPConn.SetReadDeadline(time.Time{})
	s.holder.Store(d)
	return d
}

// touch notes that something passed.
func (s *socket) touch(answer bool) {
	s.active.Store(int64(time.Since(s.flow.began)))
	if answer && !s.answered.Load() {
		s.answered.Store(true)
	}
}

// look ends the flow when it was idle for too long, and looks again when it could have been.
func (s *socket) look() {
	limit := unansweredFor
	if s.answered.Load() {
		limit = idleFor
	}
	idle := time.Since(s.flow.began) - time.Duration(s.active.Load())
	if idle >= limit {
		s.finish(io.EOF, "timeout")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle.Reset(limit - idle)
	}
}

// fail ends the flow from our side.
func (s *socket) fail(why *tunnel.Error) { s.finish(why, closeOf(why.Code)) }

// finish ends the flow with what the session is to hear.
func (s *socket) finish(why error, cause string) {
	if d := s.holder.Swap(nil); d != nil {
		d.ended.CompareAndSwap(nil, &why)
	}
	s.close(cause, nil)
}

// close closes the socket and tells the end of the flow.
func (s *socket) close(cause string, err error) {
	if !s.closed.CompareAndSwap(false, true) {
		return
	}
	s.mu.Lock()
	if s.idle != nil {
		s.idle.Stop()
		s.idle = nil
	}
	s.mu.Unlock()
	s.park.forget(s)
	_ = s.UDPConn.Close()
	s.flow.end(cause, err)
}

// park is where sockets wait. It is safe for concurrent use.
type park struct {
	mu      sync.Mutex
	sockets map[string]*parked
	refused uint64
}

type parked struct {
	socket *socket
	until  *time.Timer
}

func newPark() *park { return &park{sockets: map[string]*parked{}} }

// keep parks a socket that no session has, and reports whether there was room.
func (p *park) keep(s *socket) bool {
	key := s.flow.key()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.sockets[key]; taken || key == "" || len(p.sockets) >= maxParked || s.closed.Load() {
		p.refused++
		return false
	}
	p.sockets[key] = &parked{s, time.AfterFunc(parkedFor, func() { s.close("tunnel-lost", nil) })}
	return true
}

// take returns the socket that waits for the flow, nil if none does.
func (p *park) take(key string) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.sockets[key]
	if w == nil || !w.until.Stop() {
		return nil
	}
	delete(p.sockets, key)
	return w.socket
}

// forget removes a socket that is being closed.
func (p *park) forget(s *socket) {
	key := s.flow.key()
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.sockets[key]; w != nil && w.socket == s {
		w.until.Stop()
		delete(p.sockets, key)
	}
}

func (p *park) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sockets)
}
