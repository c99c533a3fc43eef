//go:build linux

package tproxy

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow"
)

// acceptPause is how long accepting rests when the process has no descriptor left.
const acceptPause = 20 * time.Millisecond

// acceptAll makes an Arrival of each connection until the listener is closed.
func (d *Door) acceptAll(ln net.Listener, h flow.Handler) error {
	slots := make(chan struct{}, d.cfg.Limits.TCPFlows)
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			d.warn(err, "accept")
			select {
			case <-d.ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case errors.Is(err, syscall.ECONNABORTED):
			continue
		case err != nil:
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			d.counters.add(rejectTCPFlows)
			reset(c.(*net.TCPConn))
			continue
		}
		d.counters.add(countTCP)
		d.flows.Go(func() {
			defer func() { <-slots }()
			d.carry(c.(*net.TCPConn), h)
		})
	}
}

// carry is the life of one TCP flow.
func (d *Door) carry(c *net.TCPConn, h flow.Handler) {
	t := &tcpArrival{conn: c}
	defer t.abandon()
	h.Handle(d.ctx, flow.Arrival{
		Network: "tcp",
		Src:     addrPort(c.RemoteAddr()),
		Dst:     addrPort(c.LocalAddr()),
		Accept:  t.accept,
		Reject:  func(flow.Reason) error { return t.reject() },
	})
}

// tcpArrival is a connection whose handshake is over already.
type tcpArrival struct {
	conn *net.TCPConn

	mu       sync.Mutex
	accepted bool
	rejected bool
}

func (t *tcpArrival) accept() (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.accepted || t.rejected {
		return nil, net.ErrClosed
	}
	t.accepted = true
	return t.conn, nil
}

// reject resets the connection. The reason makes no difference: the program has seen the handshake.
func (t *tcpArrival) reject() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rejected {
		return nil
	}
	t.rejected = true
	return reset(t.conn)
}

// abandon resets what the handler neither accepted nor rejected.
func (t *tcpArrival) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.accepted && !t.rejected {
		t.rejected = true
		reset(t.conn)
	}
}

// reset closes the connection by a RST.
func reset(c *net.TCPConn) error {
	c.SetLinger(0)
	return c.Close()
}

// addrPort is the address of a socket, an IPv4 one as IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
