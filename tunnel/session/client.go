package session

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// maxQueries is how many DNS queries a client answers at one time.
const maxQueries = 256

// Client is the user's end of a session: it does for the edge what its Handler lets it.
type Client struct {
	*link
	handler tunnel.Handler
	welcome wire.Welcome
	queries chan struct{} // a token for each query under way

	renewing sync.Mutex // one at a time
	renewed  chan *wire.Renewed

	said   chan struct{} // closed when the edge has said goodbye
	saidBy sync.Once

	drainOnce sync.Once
	drainSaid chan struct{} // closed when the edge drains
	drain     wire.Drain    // valid once drainSaid is closed
}

// Connect greets the edge on conn, which has been authenticated, and serves h until the session ends. It owns conn from now
// on. When it fails the connection is closed and the error tells why. ctx is for the greeting, which takes at most
// [HandshakeTimeout].
func Connect(ctx context.Context, conn *quic.Conn, h tunnel.Handler, cfg ClientConfig) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	c, err := introduce(ctx, conn, h, cfg)
	if err != nil {
		err = greetError(ctx, err)
		code, text := ending(err)
		conn.CloseWithError(quic.ApplicationErrorCode(code), text)
		return nil, fmt.Errorf("greet the edge: %w", err)
	}
	c.run(c.handle, c.serve)
	return c, nil
}

func introduce(ctx context.Context, conn *quic.Conn, h tunnel.Handler, cfg ClientConfig) (*Client, error) {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	stream.SetDeadline(deadline)
	hello := &wire.Hello{
		Versions: []uint64{wire.Version1}, Generation: cfg.Generation,
		Software: cfg.Software, OS: cfg.OS, Routes: cfg.Routes,
	}
	if err := checkRoutes(cfg.Routes); err != nil {
		return nil, err
	}
	b := wire.AppendVarint(nil, uint64(wire.Control))
	b = wire.AppendMessage(b, hello)
	if _, err := stream.Write(append(b, grease()...)); err != nil {
		return nil, err
	}
	welcome, err := handshake[*wire.Welcome](stream)
	if err != nil {
		return nil, err
	}
	if welcome.Version != wire.Version1 {
		return nil, tunnel.Errorf(tunnel.Version, "the edge speaks version %d", welcome.Version)
	}
	stream.SetDeadline(time.Time{})
	return &Client{
		link: newLink(conn, stream, ClientRole, cfg.Transport, cfg.Log), handler: h, welcome: *welcome,
		queries: make(chan struct{}, maxQueries), renewed: make(chan *wire.Renewed, 1),
		said: make(chan struct{}), drainSaid: make(chan struct{}),
	}, nil
}

func checkRoutes(routes []wire.Route) error {
	if len(routes) > wire.MaxRoutes {
		return tunnel.Errorf(tunnel.Limit, "%d routes, at most %d are possible", len(routes), wire.MaxRoutes)
	}
	return nil
}

// Welcome is what the edge said: hostile text.
func (c *Client) Welcome() wire.Welcome { return c.welcome }

// Draining is closed when the edge says that it is about to end the session; DrainInfo tells more then.
func (c *Client) Draining() <-chan struct{} { return c.drainSaid }

// DrainInfo is what the edge said. It is zero before Draining is closed.
func (c *Client) DrainInfo() wire.Drain {
	select {
	case <-c.drainSaid:
		return c.drain
	default:
		return wire.Drain{}
	}
}

// SetRoutes tells the edge what the client reaches from now on.
func (c *Client) SetRoutes(routes []wire.Route) error {
	if err := checkRoutes(routes); err != nil {
		return err
	}
	return c.control.send(&wire.Routes{Routes: routes})
}

// Renew asks the edge for a certificate and returns what its credentials made of the request. One call waits for the other.
func (c *Client) Renew(ctx context.Context, csr []byte) (chain []byte, err error) {
	if len(csr) > wire.MaxCSR {
		return nil, tunnel.Errorf(tunnel.Limit, "a request of %d octets", len(csr))
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	select { // an answer that came too late for the call before
	case <-c.renewed:
	default:
	}
	if err := c.control.send(&wire.Renew{CSR: csr}); err != nil {
		return nil, err
	}
	select {
	case m := <-c.renewed:
		if m.Code != tunnel.OK {
			return nil, &tunnel.Error{Code: m.Code, Text: m.Text}
		}
		return m.Chain, nil
	case <-ctx.Done():
		return nil, openError(ctx, ctx.Err())
	case <-c.done:
		return nil, flowError(c.Err())
	}
}

// handle does what a control message of the edge says.
func (c *Client) handle(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Renewed:
		select {
		case c.renewed <- m:
		default: // nobody asked
		}
	case *wire.Drain:
		c.drainOnce.Do(func() {
			c.drain = *m
			close(c.drainSaid)
		})
		c.drained()
	case *wire.Goodbye:
		c.saidBy.Do(func() { close(c.said) })
	default:
		return tunnel.Errorf(tunnel.Malformed, "%T from an edge", m)
	}
	return nil
}

// serve takes the streams that the edge opens. There are at most [MaxFlows] at one time.
func (c *Client) serve() {
	for {
		q, err := c.conn.AcceptStream(c.conn.Context())
		if err != nil {
			return
		}
		c.work.Go(func() { c.serveStream(q) })
	}
}

// serveStream reads the header of a stream and does what it asks for. The stream's context ends when the edge wants no more.
func (c *Client) serveStream(q *quic.Stream) {
	q.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := wire.ReadHeader(q)
	if err != nil {
		code, _ := ending(flowError(err))
		if code == tunnel.Malformed {
			c.counters.malformed.Add(1)
			c.violated(err.Error())
		}
		refuse(q, code)
		return
	}
	q.SetReadDeadline(time.Time{})
	h.Open.Space = c.welcome.Space
	if err := c.begin(); err != nil {
		c.answerError(q, err)
		return
	}
	defer c.end()
	switch h.Kind {
	case wire.TCP:
		c.serveTCP(q, h)
	case wire.UDP:
		c.serveUDP(q, h)
	case wire.DNS:
		c.serveDNS(q, h)
	case wire.Probe:
		echo(q)
	default:
		c.counters.refused.Add(1)
		refuse(q, tunnel.Malformed)
	}
}

// serveDNS bounds the queries under way.
func (c *Client) serveDNS(q *quic.Stream, h wire.Header) {
	select {
	case c.queries <- struct{}{}:
		defer func() { <-c.queries }()
		c.serveQuery(q.Context(), q, h)
	default:
		c.answerError(q, tunnel.Errorf(tunnel.Limit, "too many queries"))
	}
}

// answerError says why nothing comes of a stream, and ends it.
func (c *Client) answerError(q *quic.Stream, err error) {
	code, text := ending(err)
	q.CancelRead(quic.StreamErrorCode(code))
	if c.answer(q, wire.Status{Code: code, Text: text}) != nil {
		refuse(q, code)
		return
	}
	q.Close()
}
