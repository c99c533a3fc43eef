package edge

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
)

// forwarder stands between one client and an edge, and passes packets on unless it is mute.
type forwarder struct {
	addr netip.AddrPort
	mute atomic.Bool
}

func newForwarder(t testing.TB, edge netip.AddrPort) *forwarder {
	t.Helper()
	near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{addr: near.LocalAddr().(*net.UDPAddr).AddrPort()}
	var client atomic.Pointer[netip.AddrPort]
	var both sync.WaitGroup
	pass := func(from *net.UDPConn, send func(b []byte, from netip.AddrPort)) {
		b := make([]byte, 65536)
		for {
			n, at, err := from.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if !f.mute.Load() {
				send(b[:n], at)
			}
		}
	}
	both.Go(func() {
		pass(near, func(b []byte, from netip.AddrPort) {
			client.Store(&from)
			far.WriteToUDPAddrPort(b, edge)
		})
	})
	both.Go(func() {
		pass(far, func(b []byte, _ netip.AddrPort) {
			if to := client.Load(); to != nil {
				near.WriteToUDPAddrPort(b, *to)
			}
		})
	})
	t.Cleanup(func() { near.Close(); far.Close(); both.Wait() })
	return f
}

// viaLaptop is a client behind a forwarder.
type viaLaptop struct {
	*laptop
	conn *quic.Conn
}

func (e *testEdge) connectVia(t testing.TB, addr netip.AddrPort, c *creds.Client, h *handler) *viaLaptop {
	return e.connectWith(t, addr, c, session.ClientConfig{}, h)
}

func (e *testEdge) connectWith(t testing.TB, addr netip.AddrPort, c *creds.Client, cfg session.ClientConfig, h *handler) *viaLaptop {
	t.Helper()
	before := e.Counters().Joined.Load()
	tr := dialer(t)
	cfg.Transport = session.QUIC
	conn, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(addr), c.TLS(), session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.greet(t, tr, conn, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the client to be known", func() bool { return e.Counters().Joined.Load() > before })
	return &viaLaptop{l, conn}
}
