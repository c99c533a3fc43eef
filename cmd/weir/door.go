//go:build linux && !client

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/netstack"
	"github.com/weir-dev/weir/tproxy"
	"github.com/weir-dev/weir/tproxy/rules"
)

// door is how the flows of a sandbox come to the gate.
type door interface {
	Serve(ctx context.Context, h flow.Handler) error
	Counters() map[string]uint64
	Close() error
}

// checkDoor refuses flags about a link where there is none.
func (p *plan) checkDoor() error {
	if p.door != "tproxy" {
		return nil
	}
	given := ""
	switch {
	case p.link == "tap" || p.link == "veth":
		given = "--link " + p.link
	case p.mtuGiven:
		given = fmt.Sprintf("--mtu %d", p.mtu)
	default:
		return nil
	}
	return hint(fmt.Errorf("%s with --door tproxy: the kernel carries packets over lo there, and the sandbox has no link", given), "--door both, or leave %s out", given)
}

// openDoors opens those that the sandbox was built for.
func (d *dataPath) openDoors() error {
	if d.cfg.Host != nil {
		return d.openHost()
	}
	if d.cfg.Door != "tproxy" {
		if err := d.openStack(); err != nil {
			return err
		}
	}
	if d.cfg.Door == "netstack" {
		return nil
	}
	return d.openTProxy()
}

// through tells the gate which door a flow came by.
type through struct {
	flow.Opener
	name string
}

// Handle implements flow.Handler.
func (t through) Handle(ctx context.Context, a flow.Arrival) {
	a.Door = t.name
	t.Opener.Handle(ctx, a)
}

// Open implements flow.Opener.
func (t through) Open(ctx context.Context, a flow.Arrival, ended func()) {
	a.Door = t.name
	t.Opener.Open(ctx, a, ended)
}

func (d *dataPath) openStack() error {
	info := d.cfg.Link
	cfg := netstack.Config{
		Link:  netstack.Link{File: d.file("link"), Kind: info.Kind, VnetHdr: info.VnetHdr, TSO: info.TSO, USO: info.USO},
		MTU:   uint32(info.MTU),
		Addr4: guest4, Gateway4: gateway4, GuestMAC: guestMAC, GatewayMAC: gatewayMAC, Log: d.log,
	}
	if d.cfg.IPv6 {
		cfg.Addr6, cfg.Gateway6 = guest6, gateway6
	}
	stack, err := netstack.New(cfg)
	if err != nil {
		return fmt.Errorf("start netstack: %w", err)
	}
	d.doors["netstack"] = stack
	d.listenDNS = func(_ int, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
		pc, err := stack.ListenPacket(at)
		if err != nil {
			return nil, nil, err
		}
		ln, err := stack.Listen(at)
		return pc, ln, err
	}
	return nil
}

// Descriptors: a flow of the tproxy door holds two sockets; the pipes of those that carry bytes at the moment, dials and the
// rest of the data path have a reserve.
const (
	flowDescriptors     = 2
	reservedDescriptors = 2048
)

// tproxyLimits are the door's own, less where the process may not have so many descriptors: a connection is refused and
// counted then, before one is missing in the middle of another.
func tproxyLimits() tproxy.Limits {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return tproxy.Limits{}
	}
	room := (max(int64(min(files.Cur, 1<<20)), reservedDescriptors) - reservedDescriptors) / flowDescriptors
	return tproxy.Limits{TCPFlows: int(max(min(room, flow.DefaultTCPFlows), 64))}
}

func (d *dataPath) openTProxy() error {
	pool, err := tproxy.NewPool(d.file(rules.KindPool))
	if err != nil {
		return err
	}
	files := map[string][]*os.File{}
	for _, kind := range []string{rules.KindTCP, rules.KindUDP, rules.KindICMP, rules.KindQueue, rules.KindLog, rules.KindWatch} {
		files[kind] = d.files[kind]
	}
	opened, err := tproxy.New(tproxy.Config{Files: files, Socket: pool.Socket, Limits: tproxyLimits(), Log: d.log})
	if err != nil {
		return err
	}
	d.doors["tproxy"] = opened
	udp, tcp := d.files[rules.KindDNS], d.files[rules.KindDNS2]
	d.listenDNS = func(i int, _ netip.AddrPort) (net.PacketConn, net.Listener, error) {
		if i >= len(udp) || i >= len(tcp) {
			return nil, nil, fmt.Errorf("no socket for it in the sandbox")
		}
		pc, err := net.FilePacketConn(udp[i])
		if err != nil {
			return nil, nil, err
		}
		ln, err := net.FileListener(tcp[i])
		return pc, ln, err
	}
	return nil
}
