//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/ping"
)

// errNoTunnel is what an app sees whose route is a tunnel that no client has opened.
var errNoTunnel = errors.New("no tunnel client is connected")

// direct is the route over the host's own network. A nil ui says nothing. Control of its dialer, if set, has each socket first.
type direct struct {
	net.Dialer
	hostPorts []uint16 // those of --host-port
	ui        *ui
	once      sync.Once
}

func newDirect(hostPorts []uint16, u *ui) *direct {
	d := &direct{hostPorts: hostPorts, ui: u}
	d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
	d.SetMultipathTCP(false)
	d.ControlContext = d.begin
	return d
}

// DialContext implements flow.Dialer. That the host forbids ping sockets is said once.
func (d *direct) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "icmp" {
		conn, err := d.Dialer.DialContext(ctx, network, address)
		if other := d.otherLoopback(address); other != "" && errors.Is(err, syscall.ECONNREFUSED) {
			return d.Dialer.DialContext(ctx, network, other)
		}
		return conn, err
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

// otherLoopback is the same host port on the loopback address of the other family, "" where there is none. --host-port is
// about a port, and a program inside that took localhost for ::1 has no way to see that the host listens on 127.0.0.1 only.
func (d *direct) otherLoopback(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() || !slices.Contains(d.hostPorts, at.Port()) {
		return ""
	}
	if at.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv6Loopback(), at.Port()).String()
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port()).String()
}
