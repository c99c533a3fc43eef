//go:build linux

package handoff

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// Stream is the data path's end of a TCP flow. Its octets are those of a kernel socket, so who knows how to move octets between
// sockets may go past Read and Write by way of SyscallConn; but what the end of that socket means, Ended says. Make one with
// [Conn.OpenStream].
type Stream struct {
	c    *net.UnixConn
	conn *Conn
	id   uint64
	by   tunnel.Identity

	mu      sync.Mutex
	fin     chan struct{} // closed when the far end's stream has ended, or the flow has
	over    chan struct{} // closed when both directions have
	finTold bool
	ended   bool          // it was the end of the far end's stream: what breaks later takes nothing of it back
	why     *tunnel.Error // what ended both; nil before
	finSent bool
	closed  bool
	toAbort bool // Close is to reset
}

var (
	_ tunnel.Stream = (*Stream)(nil)
	_ syscall.Conn  = (*Stream)(nil)
)

func newStream(c *Conn, u *net.UnixConn, m *message) *Stream {
	return &Stream{c: u, conn: c, id: m.id, by: m.by, fin: make(chan struct{}), over: make(chan struct{})}
}

// By implements [tunnel.Stream].
func (s *Stream) By() tunnel.Identity { return s.by }

// SyscallConn returns the socket. Whoever reads and writes there passes each error that ends the flow, and io.EOF for a read
// of nothing, through Ended.
func (s *Stream) SyscallConn() (syscall.RawConn, error) { return s.c.SyscallConn() }

// Read implements net.Conn.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.c.Read(b)
	return n, s.Ended(err)
}

// Write implements net.Conn.
func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.c.Write(b)
	return n, s.Ended(err)
}

// endTimeout is how long the word about an end may lag behind the end itself: they come by two sockets, the word first.
const endTimeout = 5 * time.Second

// Ended says what it means that an operation on the socket failed with err: io.EOF stays when the far end has ended its
// stream, what broke the flow is an *[tunnel.Error], and all that says nothing about the flow (deadlines, a socket closed
// here) comes back as it is. It may wait for the edge's word.
func (s *Stream) Ended(err error) error {
	var told <-chan struct{}
	switch {
	case err == nil, errors.Is(err, net.ErrClosed):
		return err
	case err == io.EOF:
		told = s.fin
	case errors.Is(err, syscall.EPIPE) && s.hasEnded():
		return err
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		told = s.over
	default:
		return err
	}
	late := time.NewTimer(endTimeout)
	defer late.Stop()
	select {
	case <-told:
	case <-late.C:
		return errLost()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil && !(err == io.EOF && s.ended) {
		return s.why
	}
	return err
}

// hasEnded reports whether CloseWrite was called: a write after it says nothing about the flow.
func (s *Stream) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finSent
}

// end is the edge's word: OK for the end of the far end's stream, anything else for the end of both.
func (s *Stream) end(why *tunnel.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finTold {
		s.finTold, s.ended = true, why.Code == tunnel.OK
		close(s.fin)
	}
	if why.Code != tunnel.OK && s.why == nil {
		s.why = why
		close(s.over)
	}
}

// CloseWrite implements [tunnel.Stream].
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	if s.closed || s.finSent {
		s.mu.Unlock()
		return nil
	}
	s.finSent = true
	s.mu.Unlock()
	if err := s.tell(kindFin, tunnel.OK); err != nil {
		return err
	}
	return s.c.CloseWrite()
}

// tell sends word about this flow's end.
func (s *Stream) tell(k kind, code tunnel.Code) error {
	if s.conn.control.send(&message{kind: k, id: s.id, code: code}, -1) != nil {
		return errLost()
	}
	return nil
}

// SetLinger makes Close reset the flow, for 0 seconds, as [net.TCPConn.SetLinger] does; other values change nothing.
func (s *Stream) SetLinger(sec int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toAbort = sec == 0
	return nil
}

// Close implements net.Conn: what was written is still delivered, and a FIN behind it.
func (s *Stream) Close() error {
	s.mu.Lock()
	abort := s.toAbort
	s.mu.Unlock()
	if abort {
		s.Abort(tunnel.Reset)
		return nil
	}
	return s.close(kindClose, tunnel.OK)
}

// Abort implements [tunnel.Stream].
func (s *Stream) Abort(code tunnel.Code) { s.close(kindAbort, code) }

func (s *Stream) close(k kind, code tunnel.Code) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.conn.forget(s.id)
	s.tell(k, code)
	err := s.c.Close()
	s.end(&tunnel.Error{Code: tunnel.Reset}) // whoever waits for the edge's word waits no more
	return err
}

// addr stands for both addresses: a socket pair has none.
type addr struct{}

// Network implements net.Addr.
func (addr) Network() string { return "tunnel" }

// String implements net.Addr.
func (addr) String() string { return "tunnel" }

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return addr{} }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return addr{} }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.c.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.c.SetWriteDeadline(t) }
