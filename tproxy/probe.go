//go:build linux

package tproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/tproxy/rules"
)

// probeFor is how long anything of a probe may take. All of it is within one kernel.
const probeFor = 2 * time.Second

// Probe opens a door in the network namespace of the calling process, which must own it (CAP_NET_ADMIN and CAP_NET_RAW), and
// has a connection and a datagram of each family go through it. held says that the kernel holds SYNs, so that what is
// refused was never accepted. Call it in a namespace made for it: what it sets up there is not taken away again.
func Probe() (held bool, err error) {
	inside := rules.Inside{
		Addr4: netip.MustParseAddr("10.77.0.2"), Gateway4: netip.MustParseAddr("10.77.0.1"),
		Addr6: netip.MustParseAddr("fd77::2"), Gateway6: netip.MustParseAddr("fd77::1"),
		Port: 1077, Hold: true, Queue: 1077, LogGroup: 1077,
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		inside.Addr6, inside.Gateway6 = netip.Addr{}, netip.Addr{} // no IPv6 in this kernel
	}
	sockets, err := inside.Open()
	if err != nil {
		return false, err
	}
	files := map[string][]*os.File{}
	for _, s := range sockets {
		files[s.Kind] = append(files[s.Kind], os.NewFile(uintptr(s.FD), s.Kind))
	}
	d, err := New(Config{Files: files, Socket: rules.FlowSocket})
	if err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { done <- d.Serve(context.Background(), probeHandler{}) }()
	defer func() {
		d.Close()
		<-done
	}()
	destinations := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	if inside.Addr6.IsValid() {
		destinations = append(destinations, netip.MustParseAddr("2001:db8::1"))
	}
	for _, to := range destinations {
		for _, network := range []string{"tcp", "udp"} {
			if err := probeEcho(network, netip.AddrPortFrom(to, probeEchoPort)); err != nil {
				return false, fmt.Errorf("%s to %s does not come through: %w", network, to, err)
			}
		}
	}
	_, err = net.DialTimeout("tcp", netip.AddrPortFrom(destinations[0], probeRefusedPort).String(), probeFor)
	return d.HoldsSYN() && errors.Is(err, syscall.ECONNREFUSED), nil
}

// The ports that the probe's own handler answers on, and refuses.
const (
	probeEchoPort    = 7
	probeRefusedPort = 9
)

// probeHandler says back what it hears first.
type probeHandler struct{}

// Handle implements flow.Handler.
func (probeHandler) Handle(_ context.Context, a flow.Arrival) {
	if a.Dst.Port() != probeEchoPort {
		a.Reject(flow.Refused)
		return
	}
	c, err := a.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(probeFor))
	b := make([]byte, 1)
	if n, err := c.Read(b); err == nil {
		c.Write(b[:n])
	}
}

func probeEcho(network string, to netip.AddrPort) error {
	c, err := net.DialTimeout(network, to.String(), probeFor)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(probeFor))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}
