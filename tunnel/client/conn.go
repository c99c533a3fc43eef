package client

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// errKilled is what both sides hear of a flow that the user has ended, errDay of one that the bound of a day has.
var (
	errKilled = tunnel.Errorf(tunnel.Denied, "the user has ended the flow")
	errDay    = tunnel.Errorf(tunnel.Limit, "bytes per day")
)

// stream is a TCP flow's end at its destination. It implements [tunnel.Upstream].
type stream struct {
	*net.TCPConn
	flow *flow

	failed atomic.Pointer[tunnel.Error] // why we ended it ourselves
	broken atomic.Pointer[error]        // how the destination did
}

// hidden are the methods of TCPConn that would carry bytes past us.
var _ interface {
	tunnel.Upstream
	io.ReaderFrom
	io.WriterTo
} = (*stream)(nil)

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.TCPConn.Read(b)
	return n, s.passed(0, n, err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.TCPConn.Write(b)
	return n, s.passed(n, 0, err)
}

// ReadFrom and WriteTo keep io.Copy from finding those of the TCPConn, which would not count.
func (s *stream) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{s}, r)
}

func (s *stream) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{s})
}

// passed counts, and says how a connection that has ended came to its end.
func (s *stream) passed(sent, received int, err error) error {
	s.Carried(sent, received)
	if err == nil || err == io.EOF {
		return err
	}
	if own := s.failed.Load(); own != nil {
		return own
	}
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.broken.CompareAndSwap(nil, &err)
	}
	return err
}

// Carried implements [tunnel.Upstream].
func (s *stream) Carried(sent, received int) {
	if !s.flow.count(sent, received) {
		s.fail(errDay)
	}
}

// Abort implements [tunnel.Upstream].
func (s *stream) Abort(code tunnel.Code) {
	s.reset()
	s.flow.end(closeOf(code), nil)
}

func (s *stream) Close() error {
	err := s.TCPConn.Close()
	if broken := s.broken.Load(); broken != nil {
		s.flow.end(closeOf(tunnel.CodeOf(*broken)), *broken)
	} else {
		s.flow.end("fin", nil)
	}
	return err
}

// fail ends the flow from our side.
func (s *stream) fail(why *tunnel.Error) {
	if s.failed.CompareAndSwap(nil, why) {
		s.reset()
		s.flow.end(closeOf(why.Code), nil)
	}
}

func (s *stream) reset() {
	_ = s.TCPConn.SetLinger(0)
	_ = s.TCPConn.Close()
}

// closeOf is how a flow that ended with the code is closed, in the words of the event log.
func closeOf(code tunnel.Code) string {
	switch code {
	case tunnel.OK:
		return "fin"
	case tunnel.Reset, tunnel.Refused:
		return "rst"
	case tunnel.TimedOut:
		return "timeout"
	case tunnel.Denied, tunnel.Limit:
		return "policy"
	case tunnel.Lost, tunnel.Superseded:
		return "tunnel-lost"
	case tunnel.Draining:
		return "exit"
	}
	return "error"
}

// Times of a UDP flow: it ends when nothing passed for idleFor, or for unansweredFor while nothing has come back yet.
const (
	idleFor       = 120 * time.Second
	unansweredFor = 30 * time.Second
)

// datagrams is one session's hold on a UDP socket. The socket outlives it when the tunnel breaks (park.go).
type datagrams struct {
	*socket
	ended   atomic.Pointer[error] // what Read and Write return from now on
	readers atomic.Int32
}

var _ tunnel.Upstream = (*datagrams)(nil)

func (d *datagrams) Read(b []byte) (int, error) {
	d.readers.Add(1)
	defer d.readers.Add(-1)
	if ended := d.ended.Load(); ended != nil {
		return 0, *ended
	}
	n, err := d.UDPConn.Read(b)
	if ended := d.ended.Load(); ended != nil && err != nil {
		return 0, *ended
	}
	if err == nil {
		d.Carried(0, n)
	} else if tunnel.CodeOf(err) == tunnel.Refused {
		d.flow.h.missed(d.flow.open)
	}
	return n, err
}

func (d *datagrams) Write(b []byte) (int, error) {
	if ended := d.ended.Load(); ended != nil {
		return 0, *ended
	}
	n, err := d.UDPConn.Write(b)
	if ended := d.ended.Load(); ended != nil && err != nil {
		return 0, *ended
	}
	if err == nil {
		d.Carried(n, 0)
	}
	return n, err
}

// CloseWrite implements [tunnel.Upstream]; datagrams have no half.
func (d *datagrams) CloseWrite() error { return syscall.EOPNOTSUPP }

// Carried implements [tunnel.Upstream].
func (d *datagrams) Carried(sent, received int) {
	d.touch(received > 0)
	if !d.flow.count(sent, received) {
		d.socket.fail(errDay)
	}
}

// SyscallConn implements [tunnel.Upstream].
func (d *datagrams) SyscallConn() (syscall.RawConn, error) {
	raw, err := d.UDPConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return held{d, raw}, nil
}

// Close ends the flow.
func (d *datagrams) Close() error {
	if d.release(net.ErrClosed) {
		d.socket.close("fin", nil)
	}
	return nil
}

// Abort implements [tunnel.Upstream].
func (d *datagrams) Abort(code tunnel.Code) {
	if !d.release(tunnel.Errorf(code, "")) {
		return
	}
	if code == tunnel.Refused {
		d.flow.h.missed(d.flow.open)
	}
	if code != tunnel.Lost || !d.park.keep(d.socket) {
		d.socket.close(closeOf(code), nil)
	}
}

// leaveFor is how long a reader that was woken may take to leave.
const leaveFor = time.Second

// release takes the socket away from this session; whoever reads is woken, and has left when it returns. It reports whether
// the session still had it.
func (d *datagrams) release(why error) bool {
	if !d.ended.CompareAndSwap(nil, &why) {
		return false
	}
	if !d.holder.CompareAndSwap(d, nil) {
		return false
	}
	_ = d.UDPConn.SetReadDeadline(time.Unix(1, 0))
	for waited := time.Duration(0); d.readers.Load() > 0; waited += time.Millisecond {
		if waited >= leaveFor { // it does not leave, so nobody else can have the socket
			d.socket.close("error", nil)
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// held is access to the socket that ends with the session's hold on it.
type held struct {
	d   *datagrams
	raw syscall.RawConn
}

func (h held) Control(f func(fd uintptr)) error {
	if ended := h.d.ended.Load(); ended != nil {
		return *ended
	}
	return h.raw.Control(f)
}

func (h held) Read(f func(fd uintptr) bool) error {
	h.d.readers.Add(1)
	defer h.d.readers.Add(-1)
	if ended := h.d.ended.Load(); ended != nil {
		return *ended
	}
	err := h.raw.Read(f)
	if ended := h.d.ended.Load(); ended != nil && err != nil {
		return *ended
	}
	return err
}

func (h held) Write(f func(fd uintptr) bool) error {
	if ended := h.d.ended.Load(); ended != nil {
		return *ended
	}
	return h.raw.Write(f)
}
