package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// listenBacklog is how many connections to a gateway listener may wait for Accept.
	listenBacklog = 128
)

// Listen listens for TCP connections from the sandbox on one of the gateway's addresses. Connections to it are no flows:
// the handler of Serve does not see them. Only the sandbox can reach it.
func (s *Stack) Listen(at netip.AddrPort) (net.Listener, error) {
	l := &listener{ready: make(chan struct{}, 1)}
	ep, terr := s.stack.NewEndpoint(tcp.ProtocolNumber, networkProtocol(at.Addr()), &l.wq)
	if terr != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, errnoOf(terr))
	}
	if terr := ep.Bind(fullAddress(at)); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("listen on %s: %w", at, errnoOf(terr))
	}
	if terr := ep.Listen(listenBacklog); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("listen on %s: %w", at, errnoOf(terr))
	}
	l.ep, l.addr = ep, net.TCPAddrFromAddrPort(at)
	l.entry.Init(signal(l.ready), waiter.ReadableEvents)
	l.wq.EventRegister(&l.entry)
	return l, nil
}

// listener is a net.Listener on the gateway.
type listener struct {
	wq     waiter.Queue
	ep     tcpip.Endpoint
	entry  waiter.Entry
	ready  chan struct{}
	addr   net.Addr
	closed atomic.Bool
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for !l.closed.Load() {
		ep, wq, terr := l.ep.Accept(nil)
		switch terr.(type) {
		case nil:
			c := newTCPConn()
			c.wq = wq
			c.start(ep)
			return c, nil
		case *tcpip.ErrWouldBlock:
			<-l.ready
		default:
			if !l.closed.Load() {
				return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: errnoOf(terr)}
			}
		}
	}
	signal(l.ready).NotifyEvent(0) // another Accept may be waiting
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.ep.Close()
	l.wq.EventUnregister(&l.entry)
	signal(l.ready).NotifyEvent(0)
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// ListenPacket receives UDP datagrams from the sandbox on one of the gateway's addresses. They are no flows: the handler
// of Serve does not see them. What is not read in time beyond 256 KiB is lost.
func (s *Stack) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	local := fullAddress(at)
	conn, err := gonet.DialUDP(s.stack, &local, nil, networkProtocol(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", at, err)
	}
	return &packetConn{UDPConn: conn}, nil
}

// packetConn makes a gonet socket say net.ErrClosed when it is closed.
type packetConn struct {
	*gonet.UDPConn
	closed atomic.Bool
}

// ReadFrom implements net.PacketConn.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.UDPConn.ReadFrom(b)
	if err != nil && p.closed.Load() {
		err = &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
	}
	return n, from, err
}

// Close implements net.PacketConn.
func (p *packetConn) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	return p.UDPConn.Close()
}

// DialTCP opens a TCP connection from the gateway into the sandbox, for a published port. The caller closes it. The
// error is the client's: ECONNREFUSED when nothing listens there, ETIMEDOUT when nobody answers.
func (s *Stack) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if to.Addr() != s.cfg.Addr4 && to.Addr() != s.cfg.Addr6 {
		return nil, fmt.Errorf("dial %s: not the sandbox's address", to)
	}
	c := newTCPConn()
	ep, terr := s.stack.NewEndpoint(tcp.ProtocolNumber, networkProtocol(to.Addr()), c.wq)
	if terr != nil {
		return nil, fmt.Errorf("dial %s: %w", to, errnoOf(terr))
	}
	c.start(ep)
	if err := s.connect(ctx, c, to); err != nil {
		c.Abort()
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return c, nil
}

// connect performs the handshake of DialTCP.
func (s *Stack) connect(ctx context.Context, c *tcpConn, to netip.AddrPort) error {
	gateway := s.cfg.Gateway4
	if to.Addr().Is6() {
		gateway = s.cfg.Gateway6
	}
	if terr := c.ep.Bind(fullAddress(netip.AddrPortFrom(gateway, 0))); terr != nil {
		return errnoOf(terr)
	}
	terr := c.ep.Connect(fullAddress(to))
	if _, started := terr.(*tcpip.ErrConnectStarted); !started {
		return errnoOf(terr)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return net.ErrClosed
		case <-c.writable:
		}
		switch state := tcp.EndpointState(c.ep.State()); state {
		case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		case tcp.StateError, tcp.StateClose:
			if err := errnoOf(c.ep.LastError()); err != nil {
				return err
			}
			return errnoOf(&tcpip.ErrConnectionReset{})
		default:
			return nil
		}
	}
}
