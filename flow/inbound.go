package flow

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/relay"
)

// Inbound carries a connection that came from outside to a port which the user published; it is recorded like any flow,
// with rule builtin:publish, and not judged again. dst is the port inside, dial opens it. The connection stays the caller's.
func (g *Gate) Inbound(ctx context.Context, outside net.Conn, dst netip.AddrPort, dial func() (net.Conn, error)) {
	f := g.newFlow(Arrival{Network: "tcp", Inbound: true, Dst: dst, Reject: func(Reason) error { return outside.Close() }})
	if src, ok := outside.RemoteAddr().(*net.TCPAddr); ok {
		f.Src = src.AddrPort()
	}
	f.decision.Route, f.decision.Rule = "direct", "builtin:publish"
	f.emit(&event.Connect{Src: f.Src, Dst: dst, Protocol: "tcp", Route: "direct", Verdict: "allow", Rule: "builtin:publish", Door: g.Door, Inbound: true})
	inside, err := dial()
	if err != nil {
		f.recordInbound(relay.Stats{Cause: relay.Error}, err)
		return
	}
	g.flows.Add(1)
	defer g.flows.Add(-1)
	r := relay.New(ctx, inside, outside) // the program's bytes are the ones that a Drain waits for
	r.Start()
	g.sending.Add(1)
	r.Up(relay.Options{})
	g.sending.Add(-1)
	f.recordInbound(r.Wait(), nil)
}

func (f *visit) recordInbound(s relay.Stats, err error) {
	c := &event.Close{Dst: f.dst, Protocol: "tcp", Route: "direct", Verdict: "allow",
		BytesSent: uint64(s.Sent), BytesReceived: uint64(s.Received), Duration: time.Since(f.start), Close: string(s.Cause)}
	if err != nil {
		c.Error = err.Error()
	}
	f.emit(c)
}
