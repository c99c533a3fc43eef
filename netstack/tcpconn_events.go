package netstack

import (
	"net"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// signal is a waiter that fills a channel of capacity 1.
type signal chan struct{}

// NotifyEvent implements waiter.EventListener.
func (s signal) NotifyEvent(waiter.EventMask) {
	select {
	case s <- struct{}{}:
	default:
	}
}

// hangup is the waiter that interrupts a fast path blocked on the host's socket.
type hangup tcpConn

// NotifyEvent implements waiter.EventListener.
func (h *hangup) NotifyEvent(waiter.EventMask) {
	h.hostMu.Lock()
	defer h.hostMu.Unlock()
	h.hup.Store(true)
	if h.host != nil {
		h.host.SetDeadline(time.Unix(1, 0))
	}
}

// failure is what broke the connection, nil while nothing did. The endpoint tells it once; the connection remembers, for
// both directions want to know.
func (c *tcpConn) failure() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	state := tcp.EndpointState(c.ep.State())
	if state != tcp.StateError && state != tcp.StateClose {
		return nil
	}
	c.brokenMu.Lock()
	defer c.brokenMu.Unlock()
	if c.broken == nil {
		c.broken = endOf(state, c.ep.LastError())
	}
	return c.broken
}

// endOf is what an endpoint in a final state has died of; nil when both streams ended in peace.
func endOf(state tcp.EndpointState, terr tcpip.Error) error {
	switch terr.(type) {
	case *tcpip.ErrConnectionReset, *tcpip.ErrAborted, *tcpip.ErrConnectionAborted, *tcpip.ErrTimeout:
		return errnoOf(terr)
	}
	if state == tcp.StateError {
		return syscall.ECONNRESET
	}
	return nil
}

// remember keeps the error that an operation got from the endpoint, which has forgotten it thereby.
func (c *tcpConn) remember(err error) error {
	c.brokenMu.Lock()
	defer c.brokenMu.Unlock()
	if c.broken == nil {
		c.broken = err
	}
	return err
}
