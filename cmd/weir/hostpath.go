//go:build linux && !client

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/resolver"
	"github.com/weir-dev/weir/tproxy"
	"github.com/weir-dev/weir/tproxy/rules"
)

// The data path of a container on the host is that of a sandbox with other sockets: they come from package rules' Host, in
// the host's own network namespace.

// hostGuest is what it knows beside what every data path does.
type hostGuest struct {
	// Port is the host's end of the container's link, Addrs are the container's own addresses.
	Port  string
	Addrs []netip.Addr
	// Resolvers are the servers that the container's questions go to. Asked are those of them that run on this host and are
	// asked first; the host's own resolvers are asked where these do not answer.
	Resolvers, Asked []netip.Addr
	// Marks are the values for the marks of sockets.
	Marks rules.Marks
}

// openHost opens the door of a container.
func (d *dataPath) openHost() error {
	files := map[string][]*os.File{}
	for _, kind := range []string{rules.KindTCP, rules.KindUDP, rules.KindICMP, rules.KindQueue, rules.KindLog} {
		files[kind] = d.files[kind]
	}
	reply := int(d.cfg.Host.Marks.Reply)
	opened, err := tproxy.New(tproxy.Config{Files: files, Limits: tproxyLimits(), Log: d.log, Verdict: d.askVerdict(), Socket: func(ipv6 bool) (int, error) {
		fd, err := rules.FlowSocket(ipv6)
		if err != nil {
			return -1, err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, reply); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("mark socket: %w", err)
		}
		return fd, nil
	}})
	if err != nil {
		return err
	}
	d.doors["tproxy"] = opened
	return nil
}

// askVerdict has the launcher give the verdicts: a process that may do so itself may also change the rules.
func (d *dataPath) askVerdict() func(id uint32, accept bool) {
	f := d.file("verdicts")
	if f == nil {
		return nil // no SYN is held
	}
	return func(id uint32, accept bool) {
		b := binary.BigEndian.AppendUint32(nil, id)
		if accept {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		f.Write(b) // the launcher is gone if this fails, and with it all that is held
	}
}

// serveHost answers the questions that the rules bring.
func (d *dataPath) serveHost(ctx context.Context) error {
	for i, f := range d.files[rules.KindDNS] {
		pc, err := tproxy.NewQuestions(f, d.files[rules.KindICMP], d.cfg.Host.resolver(i))
		if err != nil {
			return err
		}
		var ln net.Listener
		if tcp := d.files[rules.KindDNS2]; i < len(tcp) {
			if ln, err = net.FileListener(tcp[i]); err != nil {
				return fmt.Errorf("listen for dns: %w", err)
			}
		}
		addrs := d.cfg.Host.Addrs
		if ln != nil {
			ln = guestListener{ln, addrs}
		}
		go d.mustServe(ctx, "dns", func() error { return d.dns.Serve(ctx, guestQuestions{pc, addrs}, ln) })
	}
	return nil
}

// guestQuestions and guestListener are to the resolver what fromGuest is to flows: what others on the host ask is not answered,
// and not written down as the container's.
type guestQuestions struct {
	net.PacketConn
	addrs []netip.Addr
}

// ReadFrom implements net.PacketConn.
func (g guestQuestions) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := g.PacketConn.ReadFrom(p)
		if err != nil || isOf(from, g.addrs) {
			return n, from, err
		}
	}
}

type guestListener struct {
	net.Listener
	addrs []netip.Addr
}

// Accept implements net.Listener.
func (g guestListener) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || isOf(c.RemoteAddr(), g.addrs) {
			return c, err
		}
		c.Close()
	}
}

// isOf reports whether a socket's address is one of addrs.
func isOf(a net.Addr, addrs []netip.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && slices.Contains(addrs, ap.Addr().Unmap())
}

// resolver is the server that the i-th family's questions go to, for the event log.
func (h *hostGuest) resolver(i int) netip.AddrPort {
	for _, r := range h.Resolvers {
		if r.Is4() == (i == 0) {
			return netip.AddrPortFrom(r, 53)
		}
	}
	return netip.AddrPort{}
}

// fromGuest lets through what came from the container's own addresses: the listeners have an address on the host's loopback,
// where others on the host can reach them.
type fromGuest struct {
	flow.Opener
	addrs []netip.Addr
}

// Handle implements flow.Handler.
func (f fromGuest) Handle(ctx context.Context, a flow.Arrival) {
	if !slices.Contains(f.addrs, a.Src.Addr()) {
		a.Reject(flow.Denied)
		return
	}
	f.Opener.Handle(ctx, a)
}

// Open implements flow.Opener.
func (f fromGuest) Open(ctx context.Context, a flow.Arrival, ended func()) {
	if !slices.Contains(f.addrs, a.Src.Addr()) {
		a.Reject(flow.Denied)
		ended()
		return
	}
	f.Opener.Open(ctx, a, ended)
}

// upstream asks the resolver that the container engine runs on this host, which knows the names of containers, and where
// that does not answer the host's own.
func (h *hostGuest) upstream(open func(string) (*os.File, error)) resolver.Upstream {
	var list resolver.InOrder
	for _, server := range h.Asked {
		address := netip.AddrPortFrom(server, 53).String()
		list = append(list, &stub.Host{Open: open, Client: stub.Client{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}})
	}
	return append(list, &stub.Host{Open: open})
}

// markSockets has a dialer's sockets carry the mark of what weir itself sends out.
func (h *hostGuest) markSockets(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(h.Marks.Upstream))
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("mark socket: %w", err)
	}
	return nil
}
