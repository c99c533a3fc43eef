package flow_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/testnet"
)

// slowDialer opens its upstream only when it is let.
type slowDialer struct {
	let      chan struct{}
	upstream net.Conn
}

func (d slowDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	<-d.let
	return d.upstream, nil
}

// A program that ends right after its only datagram has sent it all the same.
func TestDrainWaitsForFirstDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort("192.0.2.1:8125")
		w := newWorld(t, enforce("192.0.2.1:8125/udp"))
		inside, gates := testnet.Pair()
		ours, theirs := testnet.Pair()
		d := slowDialer{make(chan struct{}), ours}
		w.gate.Routes["direct"] = d
		ctx, cancel := context.WithCancel(t.Context())
		handled := make(chan struct{})
		go func() {
			defer close(handled)
			w.gate.Handle(ctx, flow.Arrival{Network: "udp", Src: source, Dst: at,
				Accept: func() (net.Conn, error) { return gates, nil }, Reject: func(flow.Reason) error { return nil }})
		}()
		inside.Write([]byte("counter:1|c"))
		synctest.Wait()
		drained := make(chan struct{})
		go func() { w.gate.Drain(ctx); close(drained) }()
		synctest.Wait()
		select {
		case <-drained:
			t.Fatal("drained before the datagram was sent")
		default:
		}
		close(d.let)
		<-drained
		b := make([]byte, 64)
		if n, _ := theirs.Read(b); string(b[:n]) != "counter:1|c" {
			t.Fatalf("upstream got %q", b[:n])
		}
		cancel()
		<-handled
	})
}
