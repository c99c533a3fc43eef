//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/resolver"
	"github.com/weir-dev/weir/tunnel"
)

// tunnelRoute carries flows to the user's machine by way of the edge process. It is the route "tunnel", or "tunnel:NAME" where
// via names the client.
type tunnelRoute struct {
	edge tunnel.Opener
	via  string

	// alias maps addresses inside to what the client is asked for instead.
	alias map[netip.Addr]netip.Addr

	// lost counts datagrams for which there was no room towards the edge.
	lost *atomic.Uint64
}

// isTunnel reports whether a route of the policy leads through the tunnel, and to which client; "" is any.
func isTunnel(route string) (via string, ok bool) {
	if route == "tunnel" {
		return "", true
	}
	return strings.CutPrefix(route, "tunnel:")
}

// DialContext implements flow.Dialer, for a flow of which nothing more is known.
func (r *tunnelRoute) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	conn, _, err := r.DialFlow(ctx, flow.Trip{Network: network, Dst: at})
	return conn, err
}

// DialFlow implements flow.Carrier. What comes back is the word of the client, or of the edge where there is none.
func (r *tunnelRoute) DialFlow(ctx context.Context, t flow.Trip) (net.Conn, string, error) {
	if loopback, alias := r.alias[t.Dst.Addr()]; alias {
		t.Dst = netip.AddrPortFrom(loopback, t.Dst.Port())
	}
	o := tunnel.Open{Flow: t.Flow, Network: t.Network, Addr: t.Dst, Names: t.Names[:min(len(t.Names), tunnel.MaxNames)], Via: r.via}
	switch t.Network {
	case "tcp":
		s, err := r.edge.OpenStream(ctx, o)
		if err != nil {
			return nil, "", declined(err)
		}
		return s, s.By().String(), nil
	case "udp":
		d, err := r.edge.OpenDatagrams(ctx, o)
		if err != nil {
			return nil, "", declined(err)
		}
		conn, err := newTunnelDatagrams(d, r.lost)
		return conn, d.By().String(), err
	}
	return nil, "", &flow.Declined{Reason: "no-tunnel", Rule: "builtin:tunnel-" + t.Network, Err: errors.New("the tunnel carries tcp and udp")}
}

// tunnelResolver asks the resolver of the user's machine.
func tunnelResolver(edge tunnel.Opener, via string) resolver.Upstream {
	return &resolver.Remote{Ask: func(ctx context.Context, message []byte) ([]byte, string, error) {
		answer, by, err := edge.Query(ctx, tunnel.Query{Via: via, Message: message})
		var none *flow.Declined
		if errors.As(declined(err), &none) {
			err = &resolver.Unavailable{Reason: none.Reason, Rule: none.Rule, Err: err}
		}
		return answer, by.String(), err
	}}
}

// declined tells apart what a client's network has answered from what nobody was asked for.
func declined(err error) error {
	switch tunnel.CodeOf(err) {
	case tunnel.NoClient, tunnel.Draining, tunnel.Revoked, tunnel.Superseded:
		return &flow.Declined{Reason: "no-tunnel", Rule: "builtin:tunnel", Err: err}
	case tunnel.Limit:
		return &flow.Declined{Reason: "limit", Rule: "builtin:tunnel", Err: err}
	}
	return err
}

// maxTunnelDatagram is the largest datagram that the tunnel takes, in octets: one of UDP over IPv4.
const maxTunnelDatagram = 65507

// edgeDatagrams is what a flow of the edge process is.
type edgeDatagrams interface {
	tunnel.Batched
	SendSome(datagrams [][]byte, wait bool) (n int, octets int64, err error)
	Dropped() uint64
	SetReadDeadline(t time.Time) error
}

// tunnelDatagrams is a UDP flow of the tunnel as a connection of which one Read or Write is a datagram.
type tunnelDatagrams struct {
	edgeDatagrams
	lost *atomic.Uint64 // of all flows
	told atomic.Uint64  // of what this flow has lost
}

var (
	_ flow.BatchUpstream = (*tunnelDatagrams)(nil)
	_ flow.Limited       = (*tunnelDatagrams)(nil)
)

func newTunnelDatagrams(d tunnel.Datagrams, lost *atomic.Uint64) (net.Conn, error) {
	e, ok := d.(edgeDatagrams)
	if !ok {
		d.Close()
		return nil, errors.New("the tunnel's datagrams come one by one")
	}
	return &tunnelDatagrams{edgeDatagrams: e, lost: lost}, nil
}

// Read implements net.Conn.
func (d *tunnelDatagrams) Read(b []byte) (int, error) { return d.edgeDatagrams.Receive(b) }

// Write implements net.Conn.
func (d *tunnelDatagrams) Write(b []byte) (int, error) {
	if len(b) > maxTunnelDatagram {
		return 0, syscall.EMSGSIZE
	}
	err := d.edgeDatagrams.Send(b)
	d.tell()
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Send implements flow.BatchUpstream.
func (d *tunnelDatagrams) Send(datagrams [][]byte, wait bool) (n int, octets int64, err error) {
	n, octets, err = d.SendSome(datagrams, wait)
	d.tell()
	return n, octets, err
}

// tell adds what was lost since the last time.
func (d *tunnelDatagrams) tell() {
	lost := d.Dropped()
	for before := d.told.Load(); before < lost; before = d.told.Load() {
		if d.told.CompareAndSwap(before, lost) {
			d.lost.Add(lost - before)
			return
		}
	}
}

// Receive implements flow.BatchUpstream.
func (d *tunnelDatagrams) Receive(f func(datagrams [][]byte) error) error { return d.ReceiveBatch(f) }

// SetDeadline implements net.Conn. A Write never waits.
func (d *tunnelDatagrams) SetDeadline(t time.Time) error { return d.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (d *tunnelDatagrams) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements net.Conn: the flow has no address here.
func (d *tunnelDatagrams) LocalAddr() net.Addr { return tunnelAddr{} }

// RemoteAddr implements net.Conn.
func (d *tunnelDatagrams) RemoteAddr() net.Addr { return tunnelAddr{} }

type tunnelAddr struct{}

// Network implements net.Addr.
func (tunnelAddr) Network() string { return "tunnel" }

// String implements net.Addr.
func (tunnelAddr) String() string { return "tunnel" }
