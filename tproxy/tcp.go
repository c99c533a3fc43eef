//go:build linux

package tproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow"
)

// acceptPause is how long accepting rests when the process has no descriptor left.
const acceptPause = 20 * time.Millisecond

// handshakePatience is how long the handshake of a SYN that was let through may take: it is between two sockets of one
// kernel.
const handshakePatience = 5 * time.Second

// tcpKey names a connection.
type tcpKey struct{ src, dst netip.AddrPort }

// tcpDoor turns connections into Arrivals. With a queue it is the SYN that arrives, and its connection comes to the
// listener once it is accepted; without one the connection itself arrives.
type tcpDoor struct {
	door    *Door
	queue   *synQueue // nil where the kernel holds no SYNs
	handler flow.Handler
	slots   chan struct{}

	mu      sync.Mutex
	waiting map[tcpKey]*tcpArrival // SYNs without a verdict, and handshakes on their way
	settled settled
}

// acceptAll takes each connection until the listener is closed.
func (t *tcpDoor) acceptAll(ln net.Listener) error {
	for short := false; ; {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			if !short {
				t.door.warn(err, "accept")
			}
			short = true
			select {
			case <-t.door.ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case errors.Is(err, syscall.ECONNABORTED):
			continue
		case err != nil:
			return err
		}
		short = false
		conn := c.(*net.TCPConn)
		if t.queue != nil {
			t.hand(conn)
		} else {
			t.begin(&tcpArrival{door: t, key: keyOf(conn), conn: conn, decided: true})
		}
	}
}

func keyOf(c *net.TCPConn) tcpKey { return tcpKey{addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())} }

// hand gives a connection to the arrival that let its SYN through. One that nobody let through does not exist.
func (t *tcpDoor) hand(c *net.TCPConn) {
	t.mu.Lock()
	a := t.waiting[keyOf(c)]
	t.mu.Unlock()
	if a == nil || !a.deliver(c) {
		t.door.counters.add(dropTCPUnasked)
		reset(c)
	}
}

// hold takes a SYN. The client's kernel sends it again while it waits; those copies are dropped. A copy of one that was let
// through goes the same way.
func (t *tcpDoor) hold(s heldSYN) {
	key := tcpKey{s.src, s.dst}
	t.mu.Lock()
	if t.settled.has(s) {
		t.mu.Unlock()
		t.queue.decide(s, verdictAccept)
		return
	}
	known := t.waiting[key] != nil
	full := len(t.waiting) >= t.door.cfg.Limits.HalfOpen
	var a *tcpArrival
	if !known && !full {
		a = &tcpArrival{door: t, key: key, syn: s, connected: make(chan *net.TCPConn, 1)}
		t.waiting[key] = a
	}
	t.mu.Unlock()
	if a == nil {
		if !known {
			t.door.counters.add(dropTCPHalfOpen)
		}
		t.queue.decide(s, verdictDrop)
		return
	}
	t.begin(a)
}

// begin hands an arrival to the handler, within the bound of flows.
func (t *tcpDoor) begin(a *tcpArrival) {
	select {
	case t.slots <- struct{}{}:
	default:
		t.door.counters.add(rejectTCPFlows)
		a.reject(flow.Denied)
		a.forget()
		return
	}
	t.door.flows.Add(1)
	arrival := flow.Arrival{Network: "tcp", Src: a.key.src, Dst: a.key.dst, Accept: a.accept, Reject: a.reject}
	if h, ok := t.handler.(flow.Opener); ok {
		go h.Open(t.door.ctx, arrival, a.end)
		return
	}
	go func() {
		defer a.end()
		t.handler.Handle(t.door.ctx, arrival)
	}()
}

// end is the end of the flow: the handler is done with it.
func (a *tcpArrival) end() {
	a.abandon()
	<-a.door.slots
	a.door.door.flows.Done()
}

// tcpArrival is a connection on its way: a held SYN, or one whose handshake is over already.
type tcpArrival struct {
	door      *tcpDoor
	key       tcpKey
	syn       heldSYN
	connected chan *net.TCPConn // from the listener; nil without a queue

	mu       sync.Mutex
	decided  bool         // the SYN has its verdict
	conn     *net.TCPConn // nil before the handshake
	accepted bool
	rejected bool
}

// accept implements flow.Arrival.Accept: it lets the SYN go on and waits for its connection.
func (a *tcpArrival) accept() (net.Conn, error) {
	a.mu.Lock()
	if a.accepted || a.rejected {
		a.mu.Unlock()
		return nil, net.ErrClosed
	}
	a.accepted = true
	if a.conn != nil {
		defer a.mu.Unlock()
		a.door.door.counters.add(countTCP)
		return a.conn, nil
	}
	a.decided = true
	a.mu.Unlock()
	a.door.mu.Lock()
	a.door.settled.add(a.syn)
	a.door.mu.Unlock()
	a.door.queue.decide(a.syn, verdictAccept)

	ctx, cancel := context.WithTimeout(a.door.door.ctx, handshakePatience)
	defer cancel()
	defer a.forget()
	select {
	case c := <-a.connected:
		return a.take(c)
	case <-ctx.Done():
		a.mu.Lock()
		a.rejected = true // so that nobody delivers a connection that nobody takes
		a.mu.Unlock()
		return nil, fmt.Errorf("accept: %w", ctx.Err())
	}
}

// take makes c the arrival's connection.
func (a *tcpArrival) take(c *net.TCPConn) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rejected {
		reset(c)
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	a.conn = c
	a.door.door.counters.add(countTCP)
	return c, nil
}

// deliver brings the connection, and reports whether somebody waits for it.
func (a *tcpArrival) deliver(c *net.TCPConn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.decided || !a.accepted || a.rejected || a.conn != nil {
		return false
	}
	select {
	case a.connected <- c:
		return true
	default:
		return false
	}
}

// reject implements flow.Arrival.Reject: it refuses the SYN in the terms of why, or resets the connection.
func (a *tcpArrival) reject(why flow.Reason) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rejected {
		return nil
	}
	a.rejected = true
	if a.conn != nil {
		return reset(a.conn)
	}
	if a.decided {
		return nil // the handshake is on its way; take resets it
	}
	a.decided = true
	a.door.queue.decide(a.syn, verdictDrop)
	a.door.door.icmp.refuseTCP(a.syn, why)
	return nil
}

// abandon refuses what the handler neither accepted nor rejected.
func (a *tcpArrival) abandon() {
	a.mu.Lock()
	accepted := a.accepted
	a.mu.Unlock()
	if !accepted {
		a.reject(flow.Denied)
	}
	a.forget()
}

// forget takes the arrival off the list, and resets a connection that came too late.
func (a *tcpArrival) forget() {
	if a.connected == nil {
		return
	}
	a.door.mu.Lock()
	if a.door.waiting[a.key] == a {
		delete(a.door.waiting, a.key)
	}
	a.door.mu.Unlock()
	select {
	case c := <-a.connected:
		reset(c)
	default:
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
