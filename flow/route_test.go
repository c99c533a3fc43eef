package flow_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/testnet"
	"github.com/weir-dev/weir/tunnel"
)

var stagingAddr = netip.MustParseAddrPort("10.0.1.50:5432")

const staging = "staging-db.internal.example.com"

// carrier is a route that others carry on: what it is told, and how it answers.
type carrier struct {
	conn  net.Conn
	err   error
	trips []flow.Trip
}

func (c *carrier) DialFlow(_ context.Context, t flow.Trip) (net.Conn, string, error) {
	c.trips = append(c.trips, t)
	if c.err != nil {
		return nil, "", c.err
	}
	return c.conn, "acme/laptop", nil
}

func (c *carrier) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("a carrier is told of the flow")
}

// tunnelWorld is a world whose program may reach the staging database by the tunnel, and which has evidence for it by the
// route that answered.
func tunnelWorld(t *testing.T, c *carrier, answered string) *world {
	w := newWorld(t, enforce(staging+":5432 via tunnel"))
	w.gate.Names.Recall = func(route string, a netip.Addr) (asked, chain, heard []string) {
		if route == answered && a == stagingAddr.Addr() {
			asked = []string{staging}
		}
		return asked, nil, nil
	}
	if c != nil {
		w.gate.Routes["tunnel"] = c
	}
	return w
}

// TestTunnelFlow: a route that others carry on is told what is known of the flow, and the events say who carries it.
func TestTunnelFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := testnet.Pair()
		c := &carrier{conn: ours}
		w := tunnelWorld(t, c, "tunnel")
		go echo(theirs)
		p := w.connect(t.Context(), stagingAddr)
		p.Write([]byte("query"))
		p.CloseWrite()
		io.ReadAll(p)
		<-p.done
		if diff := cmp.Diff([]flow.Trip{{Flow: "test-1", Network: "tcp", Dst: stagingAddr, Names: []string{staging}}}, c.trips, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("the route was told (-want +got):\n%s", diff)
		}
		con, cl := w.events[0].Details.(*event.Connect), w.events[1].Details.(*event.Close)
		if con.Route != "tunnel" || con.Client != "acme/laptop" || con.Hostname != staging || con.NameSource != "dns" || con.Verdict != "allow" {
			t.Errorf("network-connect %+v", con)
		}
		if cl.Route != "tunnel" || cl.Client != "acme/laptop" || cl.Close != "fin" || cl.BytesSent != 5 || cl.BytesReceived != 5 {
			t.Errorf("network-close %+v", cl)
		}
	})
}

// TestTunnelClaim: a claim that the flow has made comes before the evidence.
func TestTunnelClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := testnet.Pair()
		c := &carrier{conn: ours}
		w := newWorld(t, enforce("good.example via tunnel"))
		w.dns["good.example"] = []netip.Addr{goodAddr.Addr()}
		w.gate.Routes["tunnel"] = c
		go echo(theirs)
		p := w.connect(t.Context(), goodAddr)
		p.Write(hello("good.example"))
		synctest.Wait()
		if len(c.trips) != 1 || !slices.Equal(c.trips[0].Names, []string{"good.example"}) {
			t.Errorf("the route was told %+v", c.trips)
		}
		p.Close()
		<-p.done
	})
}

// TestTunnelRefusals: what the client's network answers is shown to the program as the direct route would, and what nobody was
// asked for is a denial; it never goes another way.
func TestTunnelRefusals(t *testing.T) {
	declined := func(reason string, code tunnel.Code) error {
		return &flow.Declined{Reason: reason, Rule: "builtin:tunnel", Err: tunnel.Errorf(code, "")}
	}
	for _, c := range []struct {
		name    string
		carrier *carrier
		answers string // the route of the evidence
		reject  flow.Reason
		connect string
		closes  []string
	}{
		{"refused", &carrier{err: tunnel.Errorf(tunnel.Refused, "")}, "tunnel", flow.Refused, "allow ", []string{"error 0 0"}},
		{"unreachable", &carrier{err: tunnel.Errorf(tunnel.HostUnreachable, "")}, "tunnel", flow.HostUnreachable, "allow ", []string{"error 0 0"}},
		{"no route", &carrier{err: tunnel.Errorf(tunnel.NetUnreachable, "")}, "tunnel", flow.NetUnreachable, "allow ", []string{"error 0 0"}},
		{"timeout", &carrier{err: tunnel.Errorf(tunnel.TimedOut, "")}, "tunnel", flow.TimedOut, "allow ", []string{"timeout 0 0"}},
		{"denied by the client", &carrier{err: tunnel.Errorf(tunnel.Denied, "rule 3")}, "tunnel", flow.Denied, "allow ", []string{"error 0 0"}},
		{"lost while dialling", &carrier{err: tunnel.Errorf(tunnel.Lost, "")}, "tunnel", flow.Refused, "allow ", []string{"tunnel-lost 0 0"}},
		{"no client", &carrier{err: declined("no-tunnel", tunnel.NoClient)}, "tunnel", flow.Denied, "deny no-tunnel", nil},
		{"too many", &carrier{err: declined("limit", tunnel.Limit)}, "tunnel", flow.Denied, "deny limit", nil},
		{"no tunnel", nil, "tunnel", flow.Denied, "deny no-tunnel", nil},
		{"the host's resolver is no witness", &carrier{}, "direct", flow.Denied, "deny private", nil},
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(c.name+" "+network, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := tunnelWorld(t, c.carrier, c.answers)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					inside, gates := testnet.Pair()
					defer inside.Close()
					rejected := make(chan flow.Reason, 8)
					go inside.Write([]byte("x"))
					w.gate.Handle(ctx, flow.Arrival{Network: network, Src: source, Dst: stagingAddr,
						Accept: func() (net.Conn, error) { return gates, nil },
						Reject: func(r flow.Reason) error { rejected <- r; return nil }})
					if got := <-rejected; got != c.reject {
						t.Errorf("rejected with %d, want %d", got, c.reject)
					}
					if len(w.dialed) > 0 {
						t.Errorf("dialled %q on the direct route", w.dialed)
					}
					w.expect([]string{c.connect + " " + staging + " dns"}, c.closes)
				})
			})
		}
	}
}

// broken is an upstream that says one thing and then breaks.
type broken struct {
	net.Conn
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

// TestTunnelLost: with the tunnel the flow ends, at once.
func TestTunnelLost(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := testnet.Pair()
				w := tunnelWorld(t, &carrier{conn: &broken{ours, tunnel.Errorf(tunnel.Lost, "")}}, "tunnel")
				inside, gates := testnet.Pair()
				done := make(chan struct{})
				go func() {
					defer close(done)
					w.gate.Handle(t.Context(), flow.Arrival{Network: network, Src: source, Dst: stagingAddr,
						Accept: func() (net.Conn, error) { return gates, nil }, Reject: func(flow.Reason) error { return nil }})
				}()
				inside.Write([]byte("query"))
				io.ReadFull(theirs, make([]byte, 5))
				began := time.Now()
				theirs.CloseWrite()
				<-done
				if took := time.Since(began); took > 0 {
					t.Errorf("it took %v", took)
				}
				w.expect([]string{"allow  " + staging + " dns"}, []string{"tunnel-lost 5 0"})
			})
		})
	}
}
