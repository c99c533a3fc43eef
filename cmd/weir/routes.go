package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/ping"
)

// errNoTunnel is what an app sees whose route is a tunnel that no client has opened.
var errNoTunnel = errors.New("no tunnel client is connected")

// direct is the route over the host's own network. A nil ui says nothing.
type direct struct {
	net.Dialer
	ui   *ui
	once sync.Once
}

func newDirect(u *ui) *direct {
	d := &direct{ui: u}
	d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
	d.SetMultipathTCP(false)
	return d
}

// DialContext implements flow.Dialer. That the host forbids ping sockets is said once.
func (d *direct) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "icmp" {
		return d.Dialer.DialContext(ctx, network, address)
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	conn, err := ping.Dial(ctx, at.Addr())
	if errors.Is(err, ping.ErrForbidden) && d.ui != nil {
		d.once.Do(func() {
			d.ui.warnf("ping is not carried: %v", err)
			d.ui.fix(`sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"`)
		})
	}
	return conn, err
}
