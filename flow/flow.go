package flow

import (
	"context"
	"net"
	"net/netip"
)

// Arrival is one flow that reached a door and waits for a verdict. A door fills it in one literal and hands it to a
// [Handler]; from there on nothing depends on how the packets were intercepted.
type Arrival struct {
	// Network is "tcp", "udp" or "icmp".
	Network string

	// Door is the name of the door, where a sandbox has several; empty is the gate's.
	Door string

	// Src is the endpoint inside the sandbox, Dst the one the program asked for. For "icmp" the ports are 0.
	Src, Dst netip.AddrPort

	// Inbound says that the flow was opened from outside towards a published port of the sandbox.
	Inbound bool

	// Accept finishes the handshake, which a door holds open until then if it can, and returns the sandbox's end of the
	// flow, which the caller closes. For "udp" and "icmp" one Read or Write is one datagram; for "icmp" a datagram is one
	// echo message (RFC 792, RFC 4443) from its type octet on, and identifiers are the door's business.
	// It is called at most once.
	Accept func() (net.Conn, error)

	// Reject refuses the flow the way the network would: before Accept by a RST to the SYN or an ICMP(v6) unreachable;
	// after Accept it tears the flow down at once (RST for "tcp", ICMP unreachable for "udp" and "icmp").
	// It may be called more than once and from any goroutine; only the first call acts.
	Reject func(Reason) error
}

// Reason tells a door how a flow is to be refused, in terms of what the program inside should see.
type Reason uint8

const (
	// Denied is a refusal by policy: RST for TCP, ICMP port unreachable for UDP, administratively prohibited for ICMP.
	Denied Reason = iota
	// Refused is an upstream that answered with a RST or port unreachable: ECONNREFUSED inside.
	Refused
	// HostUnreachable and NetUnreachable become the ICMP(v6) destination unreachable of the same name.
	HostUnreachable
	NetUnreachable
	// TimedOut is an upstream that never answered: what was not accepted is dropped in silence, what was is reset.
	TimedOut
)

// Handler takes over a flow. Handle blocks until the flow has ended; doors call it on a goroutine of its own. When ctx
// is cancelled every flow ends.
type Handler interface {
	Handle(ctx context.Context, a Arrival)
}

// Dialer opens the upstream side of a flow on one route; *net.Dialer has this shape. network is "tcp", "udp" or "icmp",
// address an IP literal with port. For "icmp" the connection speaks echo messages as [Arrival.Accept] describes.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}
