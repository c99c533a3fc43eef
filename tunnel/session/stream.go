package session

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Urgencies of streams (RFC 9218 section 4.1). A stream is bulk once it has carried bulkOctets in one direction.
const (
	urgencyControl = 0
	urgencyDNS     = 1
	urgencyNew     = 3
	urgencyBulk    = 5

	bulkOctets = 8 << 20
)

// stream is the edge's end of a TCP flow.
type stream struct {
	edge          *Edge
	q             *quic.Stream
	share         *share
	local, remote net.Addr

	writing sync.Mutex // held by Write and by whoever ends the direction
	sent    int64      // guarded by writing
	ended   bool       // the direction has ended; guarded by writing

	over    atomic.Bool
	overErr atomic.Pointer[tunnel.Error] // what Abort was called with
}

func newStream(e *Edge, q *quic.Stream, o tunnel.Open, s wire.Status) *stream {
	remote := o.Addr
	if s.Resolved.IsValid() {
		remote = s.Resolved
	}
	share := e.fair.join(o.Sandbox)
	return &stream{edge: e, q: q, share: share, local: address(s.Bound), remote: address(remote)}
}

func address(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		a = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return net.TCPAddrFromAddrPort(a)
}

// LocalAddr is the address from which the client has connected, where it said so.
func (s *stream) LocalAddr() net.Addr { return s.local }

// RemoteAddr is the address to which the client has connected.
func (s *stream) RemoteAddr() net.Addr { return s.remote }

func (s *stream) By() tunnel.Identity { return s.edge.who }

func (s *stream) SetDeadline(t time.Time) error      { return s.q.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.q.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.q.SetWriteDeadline(t) }

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.q.Read(b)
	return n, s.err(err)
}

// err is an error of the QUIC stream in the words of net.Conn and of package tunnel.
func (s *stream) err(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if s.over.Load() {
		if aborted := s.overErr.Load(); aborted != nil {
			return aborted
		}
		return net.ErrClosed
	}
	return flowError(err)
}

func (s *stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.ended {
		return 0, net.ErrClosed
	}
	n, err := s.share.write(s.q, b)
	s.sent = weigh(s.q, s.sent, n)
	return n, s.err(err)
}

// weigh makes a stream bulk when it is.
func weigh(q *quic.Stream, sent int64, n int) int64 {
	if sent < bulkOctets && sent+int64(n) >= bulkOctets {
		q.SetPriority(urgencyBulk, true)
	}
	return sent + int64(n)
}

// WriteTo implements io.WriterTo: what has come is handed over in large pieces, and an idle flow holds no buffer.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	p := s.edge.stalls.add(s.share.key, s.Abort)
	defer s.edge.stalls.remove(p)
	n, err := pour(w, s.q, p)
	var failed *writeError
	if errors.As(err, &failed) {
		return n, failed.err
	}
	return n, s.err(err)
}

// ReadFrom implements io.ReaderFrom in the same way.
func (s *stream) ReadFrom(r io.Reader) (int64, error) {
	n, err := fill(s, r)
	var failed *writeError
	if errors.As(err, &failed) {
		return n, failed.err
	}
	return n, err
}

func (s *stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.ended {
		return net.ErrClosed
	}
	s.ended = true
	return s.err(s.q.Close())
}

// Close ends the flow as closing a socket does: what was written is still delivered, what comes is not wanted.
func (s *stream) Close() error {
	if !s.over.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	s.q.CancelRead(quic.StreamErrorCode(tunnel.OK))
	s.q.SetWriteDeadline(time.Unix(1, 0)) // whoever is in Write stops waiting
	s.writing.Lock()
	if !s.ended {
		s.ended = true
		s.q.Close()
	}
	s.writing.Unlock()
	s.release()
	return nil
}

func (s *stream) Abort(code tunnel.Code) {
	s.overErr.CompareAndSwap(nil, &tunnel.Error{Code: code})
	if !s.over.CompareAndSwap(false, true) {
		return
	}
	refuse(s.q, code)
	s.release()
}

// release gives back what the flow had of the session, once.
func (s *stream) release() {
	s.share.leave()
	s.edge.end()
}
