package flow

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// Trip is what a route may be told of the flow that it is to carry.
type Trip struct {
	// Flow is the id that the flow has in the event log, so that a log at the other end can speak of the same.
	Flow string

	// Network is "tcp", "udp" or "icmp", Dst the destination.
	Network string
	Dst     netip.AddrPort

	// Names are the flow's claim, if it has made one, and the names that evidence of this route binds to Dst. Hostile text
	// in normal form; any number of them.
	Names []string
}

// Carrier is what a [Dialer] may be besides: a route that others carry on. An error that is or wraps a [*Declined] says that
// it did not take the flow; any other one is the network's at the far end, as that of a dial would be.
type Carrier interface {
	// DialFlow returns when the far end has answered. by names who carries the flow, for its events; it may be empty.
	DialFlow(ctx context.Context, t Trip) (conn net.Conn, by string, err error)
}

// Declined is how a route turns a flow away before anybody was asked for its destination: it has nobody to carry it, or has
// too many flows. The flow is recorded as denied and never tried on another route.
type Declined struct {
	Reason string // one of the event log's: "no-tunnel", "limit"
	Rule   string // builtin:NAME
	Err    error  // why, for people
}

func (d *Declined) Error() string { return d.Reason + ": " + d.Err.Error() }

// Unwrap returns Err.
func (d *Declined) Unwrap() error { return d.Err }

// travel opens the upstream on a route.
func (f *visit) travel(ctx context.Context, route Dialer) (conn net.Conn, err error) {
	c, ok := route.(Carrier)
	if !ok {
		return route.DialContext(ctx, f.Network, f.dst.String())
	}
	conn, f.by, err = c.DialFlow(ctx, f.trip())
	return conn, err
}

func (f *visit) trip() Trip {
	t := Trip{Flow: f.id, Network: f.Network, Dst: f.dst}
	if f.hint.Host != "" {
		t.Names = append(t.Names, f.hint.Host)
	}
	for _, n := range f.asked {
		if !slices.Contains(t.Names, n) {
			t.Names = append(t.Names, n)
		}
	}
	return t
}
