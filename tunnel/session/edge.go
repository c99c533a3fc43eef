package session

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// Edge is the hosted end of a session with one client. It is a [tunnel.Opener].
type Edge struct {
	*link
	who   tunnel.Identity
	cfg   EdgeConfig
	hello wire.Hello

	renewing sync.Mutex // one at a time

	mu     sync.Mutex
	routes []wire.Route
	said   chan struct{} // closed when the client has said goodbye
	saidBy sync.Once
}

// Accept greets the client on conn, which has been authenticated as who. It owns conn from now on. When it fails the
// connection is closed and the error tells why; otherwise the session lives until CloseWith, Drain, or its loss. ctx is for
// the greeting, which takes at most [HandshakeTimeout].
func Accept(ctx context.Context, conn *quic.Conn, who tunnel.Identity, cfg EdgeConfig) (*Edge, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	e, err := greet(ctx, conn, who, cfg)
	if err != nil {
		err = greetError(ctx, err)
		code, text := ending(err)
		conn.CloseWithError(quic.ApplicationErrorCode(code), text)
		return nil, fmt.Errorf("greet client %s: %w", who, err)
	}
	e.run(e.handle, e.refuseStreams)
	return e, nil
}

func greet(ctx context.Context, conn *quic.Conn, who tunnel.Identity, cfg EdgeConfig) (*Edge, error) {
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	stream.SetDeadline(deadline)
	kind, err := wire.ReadVarint(stream)
	if err != nil {
		return nil, err
	}
	if wire.Kind(kind) != wire.Control {
		return nil, tunnel.Errorf(tunnel.Malformed, "the first stream is of kind %d", kind)
	}
	hello, err := handshake[*wire.Hello](stream)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(hello.Versions, wire.Version1) {
		return nil, tunnel.Errorf(tunnel.Version, "this edge speaks version %d", wire.Version1)
	}
	welcome := &wire.Welcome{
		Version: wire.Version1, Session: cfg.Session, Space: who.Space, Client: who.Client,
		Time: time.Now(), RenewAfter: cfg.RenewAfter,
	}
	if _, err := stream.Write(append(wire.AppendMessage(nil, welcome), grease()...)); err != nil {
		return nil, err
	}
	stream.SetDeadline(time.Time{})
	e := &Edge{link: newLink(conn, stream, EdgeRole, cfg.Transport, cfg.Log), who: who, cfg: cfg, hello: *hello, said: make(chan struct{})}
	e.routes = hello.Routes
	return e, nil
}

// Identity is who the client is.
func (e *Edge) Identity() tunnel.Identity { return e.who }

// Hello is what the client said of itself: hostile text.
func (e *Edge) Hello() wire.Hello { return e.hello }

// Routes are what the client says that it reaches now. The slice is not to be changed.
func (e *Edge) Routes() []wire.Route {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.routes
}

// RemoteAddr is where the client's packets come from now.
func (e *Edge) RemoteAddr() net.Addr { return e.conn.RemoteAddr() }

// handle does what a control message of the client says.
func (e *Edge) handle(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Routes:
		e.mu.Lock()
		e.routes = m.Routes
		e.mu.Unlock()
		if e.cfg.Routes != nil {
			e.cfg.Routes(m.Routes)
		}
	case *wire.Renew:
		return e.renew(m.CSR)
	case *wire.Drain:
		e.drained()
	case *wire.Goodbye:
		e.saidBy.Do(func() { close(e.said) })
	default:
		return tunnel.Errorf(tunnel.Malformed, "%T from a client", m)
	}
	return nil
}

// renew asks the credentials for a certificate, beside the other messages.
func (e *Edge) renew(csr []byte) error {
	if e.cfg.Renew == nil {
		return e.control.send(&wire.Renewed{Code: tunnel.Denied, Text: "this edge does not renew"})
	}
	if !e.renewing.TryLock() {
		return e.control.send(&wire.Renewed{Code: tunnel.Limit, Text: "one at a time"})
	}
	e.spawn(func() {
		defer e.renewing.Unlock()
		answer := &wire.Renewed{}
		var err error
		if answer.Chain, err = e.cfg.Renew(csr); err != nil {
			e.log.WithError(err).WithField("client", e.who.String()).Warn("tunnel: a certificate was not renewed")
			answer = &wire.Renewed{Code: tunnel.Denied, Text: "not renewed"}
			if code := tunnel.CodeOf(err); code != tunnel.Internal {
				answer.Code = code
			}
		}
		e.control.send(answer)
	})
	return nil
}

// refuseStreams takes the streams that a client opens after the control stream. Only probes are welcome.
func (e *Edge) refuseStreams() {
	for {
		q, err := e.conn.AcceptStream(e.conn.Context())
		if err != nil {
			return
		}
		e.work.Go(func() { e.serveProbe(q) })
	}
}

// open opens a stream and writes its header. The stream counts as a flow; end is the caller's to call unless there is an
// error.
func (e *Edge) open(ctx context.Context, h wire.Header, urgency int8) (*quic.Stream, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	q, err := e.openStream(ctx, h, urgency)
	if err != nil {
		e.end()
		return nil, err
	}
	return q, nil
}

func (e *Edge) openStream(ctx context.Context, h wire.Header, urgency int8) (*quic.Stream, error) {
	credit, cancel := context.WithTimeout(ctx, creditTimeout)
	defer cancel()
	q, err := e.conn.OpenStreamSync(credit)
	if err != nil {
		if credit.Err() != nil && ctx.Err() == nil {
			return nil, tunnel.Errorf(tunnel.Limit, "the client has too many flows")
		}
		return nil, openError(ctx, err)
	}
	q.SetPriority(urgency, true)
	if deadline, ok := ctx.Deadline(); ok {
		h.Patience = max(time.Until(deadline), time.Millisecond)
	}
	q.SetWriteDeadline(time.Now().Add(headerTimeout))
	e.fair.use(time.Now())
	if _, err := q.Write(wire.AppendHeader(nil, h)); err != nil {
		refuse(q, tunnel.TimedOut)
		return nil, openError(ctx, err)
	}
	q.SetReliableBoundary()
	q.SetWriteDeadline(time.Time{})
	return q, nil
}

// await waits for the STATUS. When it fails, or ctx ends before, the stream is over and the client stops trying.
func (e *Edge) await(ctx context.Context, q *quic.Stream) (wire.Status, error) {
	e.fair.awaited.Add(1)
	defer e.fair.awaited.Add(-1)
	stop := context.AfterFunc(ctx, func() { refuse(q, tunnel.TimedOut) })
	if _, ok := ctx.Deadline(); !ok {
		q.SetReadDeadline(time.Now().Add(wire.MaxPatience))
	}
	s, err := wire.ReadStatus(q)
	if !stop() {
		return wire.Status{}, openError(ctx, err)
	}
	if err == nil {
		err = s.Err()
	}
	if err != nil {
		code, _ := ending(flowError(err))
		refuse(q, code)
		return wire.Status{}, openError(ctx, err)
	}
	q.SetReadDeadline(time.Time{})
	return s, nil
}

// OpenStream implements [tunnel.Opener]. Without a deadline in ctx it waits at most [wire.MaxPatience].
func (e *Edge) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	q, err := e.open(ctx, wire.Header{Kind: wire.TCP, Open: o}, urgencyNew)
	if err != nil {
		return nil, err
	}
	s, err := e.await(ctx, q)
	if err != nil {
		e.end()
		return nil, err
	}
	return newStream(e, q, o, s), nil
}
