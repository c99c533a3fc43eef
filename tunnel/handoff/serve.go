//go:build linux

package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// Serve is the edge's end of one control socket, which it owns: it opens what the data path asks for by way of to, in the name
// of who, until ctx is done, the data path has gone (then it returns nil), or does not keep to the format. When it returns
// nothing of the data path's is open any more.
func Serve(ctx context.Context, c *net.UnixConn, who tunnel.Owner, to tunnel.Opener, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o = o.withDefaults()
	s := &server{control: &control{c: c, patience: o.Patience}, who: who, to: to, Options: o, flows: map[uint64]served{}}
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.receive(ctx)
	s.finish(ctx)
	cancel() // those under way
	c.Close()
	s.running.Wait()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return nil
	case errors.Is(err, errMalformed):
		s.Counters.Malformed.Add(1)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("serve data path of %s: %w", who.Sandbox, err)
}

// server is what the edge has for one data path.
type server struct {
	Options
	control *control
	who     tunnel.Owner
	to      tunnel.Opener
	running sync.WaitGroup

	mu                          sync.Mutex
	flows                       map[uint64]served // under way or open, by id
	last                        uint64            // id
	streams, datagrams, opening int
	ended                       bool // no flow is added any more
}

// served is an open or a query under way, or a flow.
type served interface {
	fin()                   // the data path has ended its stream
	closed()                // the data path has closed its end
	abort(code tunnel.Code) // the data path wants to hear no more of it
	lost()                  // the data path has gone
}

// receive takes the data path's messages. Descriptors that come along have no room to come in.
func (s *server) receive(ctx context.Context) error {
	b := make([]byte, maxMessage)
	for {
		m, _, err := s.control.receive(b, nil)
		if err != nil {
			return err
		}
		if err := s.handle(ctx, &m); err != nil {
			return err
		}
	}
}

func (s *server) handle(ctx context.Context, m *message) error {
	switch m.kind {
	case kindOpenStream, kindOpenDatagrams, kindQuery:
		if m.id <= s.last {
			return errMalformed
		}
		s.last = m.id
		return s.begin(ctx, m)
	case kindFin, kindClose, kindAbort:
		s.mu.Lock()
		flow := s.flows[m.id]
		s.mu.Unlock()
		switch {
		case flow == nil: // it ended meanwhile
		case m.kind == kindFin:
			flow.fin()
		case m.kind == kindClose:
			flow.closed()
		default:
			flow.abort(m.code)
		}
		return nil
	}
	return errMalformed
}

// begin starts an open or a query, unless there are too many.
func (s *server) begin(ctx context.Context, m *message) error {
	m.open.Owner = s.who
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	if !s.admit(m, cancel) {
		cancel()
		s.Counters.Limited.Add(1)
		return s.tell(&message{kind: kindFailed, id: m.id, code: tunnel.Limit, text: "too many at one time"})
	}
	work := s.openFlow
	if m.kind == kindQuery {
		m.body = append([]byte(nil), m.body...)
		work = s.query
	}
	ask := *m
	s.running.Go(func() {
		defer cancel()
		work(ctx, &ask)
	})
	return nil
}

// admit counts what m asks for, and reports false where that is too much.
func (s *server) admit(m *message, cancel func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams, datagrams := s.streams, s.datagrams
	switch m.kind {
	case kindOpenStream:
		streams++
	case kindOpenDatagrams:
		datagrams++
	}
	if s.ended || s.opening >= s.Opening || streams > s.Streams || datagrams > s.Datagrams {
		return false
	}
	s.Counters.Streams.Add(int64(streams - s.streams))
	s.Counters.Datagrams.Add(int64(datagrams - s.datagrams))
	s.Counters.Opening.Add(1)
	s.streams, s.datagrams = streams, datagrams
	s.opening++
	s.flows[m.id] = underWay(cancel)
	return true
}

// underWay is an open or a query that can only be given up.
type underWay func()

func (u underWay) fin()              {}
func (u underWay) closed()           { u() }
func (u underWay) abort(tunnel.Code) { u() }
func (u underWay) lost()             { u() }

// opened makes flow of what was under way. It reports false when nobody wants it any more.
func (s *server) opened(ctx context.Context, id uint64, flow served) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if ctx.Err() != nil || s.ended {
		return false
	}
	s.flows[id] = flow
	return true
}

// settle counts one less under way. The caller holds mu.
func (s *server) settle() {
	s.opening--
	s.Counters.Opening.Add(-1)
}

// forget ends the life of an id of this kind.
func (s *server) forget(id uint64, k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, id)
	switch k {
	case kindOpenStream:
		s.streams--
		s.Counters.Streams.Add(-1)
	case kindOpenDatagrams:
		s.datagrams--
		s.Counters.Datagrams.Add(-1)
	}
}

// tell sends m. A data path that does not read is cut off, and with it all its flows.
func (s *server) tell(m *message) error { return s.hand(m, -1) }

func (s *server) hand(m *message, fd int) error {
	err := s.control.send(m, fd)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.Counters.Stuck.Add(1)
		}
		s.control.c.Close()
	}
	return err
}

// query asks to, and tells the answer.
func (s *server) query(ctx context.Context, m *message) {
	answer, by, err := s.to.Query(ctx, tunnel.Query{Owner: s.who, Via: m.open.Via, Message: m.body})
	s.mu.Lock()
	s.settle()
	s.mu.Unlock()
	s.forget(m.id, m.kind)
	if err == nil && len(answer) > maxQuery {
		err = tunnel.Errorf(tunnel.Malformed, "an answer of %d octets", len(answer))
	}
	if err != nil {
		s.failed(m.id, err)
		return
	}
	s.Counters.Answered.Add(1)
	s.tell(&message{kind: kindAnswer, id: m.id, by: by, body: answer})
}

func (s *server) failed(id uint64, err error) {
	s.Counters.Failed.Add(1)
	e := errorOf(err)
	s.tell(&message{kind: kindFailed, id: id, code: e.Code, text: e.Text})
}

// errorOf is err as the data path is told.
func errorOf(err error) *tunnel.Error {
	var e *tunnel.Error
	if errors.As(err, &e) {
		return e
	}
	return &tunnel.Error{Code: tunnel.CodeOf(err)}
}

// openFlow opens a flow and hands its socket over.
func (s *server) openFlow(ctx context.Context, m *message) {
	flow, by, err := s.dial(ctx, m)
	if err == nil {
		err = s.connect(ctx, m, flow, by)
	} else {
		s.mu.Lock()
		s.settle()
		s.mu.Unlock()
	}
	if err != nil {
		s.forget(m.id, m.kind)
		s.failed(m.id, err)
	}
}

// carried is a flow of to's, of either kind.
type carried interface {
	socketType() int
	largest() int
	// start carries the flow over sock on goroutines of its own, which forget it when they end.
	start(sock *net.UnixConn)
	served
}

func (s *server) dial(ctx context.Context, m *message) (carried, tunnel.Identity, error) {
	if m.kind == kindOpenDatagrams {
		d, err := s.to.OpenDatagrams(ctx, m.open)
		if err != nil {
			return nil, tunnel.Identity{}, err
		}
		return newDatagramFlow(s, m.id, d), d.By(), nil
	}
	stream, err := s.to.OpenStream(ctx, m.open)
	if err != nil {
		return nil, tunnel.Identity{}, err
	}
	return newStreamFlow(s, m.id, stream), stream.By(), nil
}

// connect makes the flow's sockets, hands one of them over and carries the flow. On an error the flow is ended.
func (s *server) connect(ctx context.Context, m *message, flow carried, by tunnel.Identity) error {
	sock, remote, err := socketPair(flow.socketType())
	wanted := s.opened(ctx, m.id, flow)
	switch {
	case err == nil && wanted:
		defer remote.Close()
	case err == nil:
		sock.Close()
		remote.Close()
		err = tunnel.Errorf(tunnel.Reset, "nobody wants it any more")
		fallthrough
	default:
		flow.abort(tunnel.Reset)
		return err
	}
	s.Counters.Opened.Add(1)
	// First the word, then the octets: an end of the flow is told after it.
	err = s.hand(&message{kind: kindOpened, id: m.id, by: by, limit: uint32(flow.largest())}, int(remote.Fd()))
	flow.start(sock)
	if err != nil {
		flow.abort(tunnel.Reset)
	}
	return nil
}

// socketPair makes the two ends of a flow. Both are as large as they need to be: the data path may not set that.
func socketPair(kind int) (local *net.UnixConn, remote *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, tunnel.Errorf(tunnel.Limit, "no socket: %v", err)
	}
	for _, fd := range fds {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	}
	remote = os.NewFile(uintptr(fds[1]), "handoff")
	local, err = unixConn(os.NewFile(uintptr(fds[0]), "handoff"))
	if err != nil {
		remote.Close()
		return nil, nil, err
	}
	return local, remote, nil
}

// socketBuffer is how much may lie in a flow's socket, in octets; the kernel doubles it for what it needs itself.
const socketBuffer = 208 << 10

// finish ends all that is left: when the data path has gone, what it closed may be delivered for a while.
func (s *server) finish(ctx context.Context) {
	s.mu.Lock()
	s.ended = true
	left := make([]served, 0, len(s.flows))
	for _, flow := range s.flows {
		left = append(left, flow)
	}
	s.mu.Unlock()
	for _, flow := range left {
		flow.lost()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.running.Wait()
	}()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-done:
		return
	case <-ctx.Done():
	case <-grace.C:
	}
	for _, flow := range left {
		flow.abort(tunnel.Reset)
	}
	<-done
}
