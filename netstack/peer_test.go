package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/relay"
)

// peer is a door and, at the other end of an AF_UNIX pair of frames, a second stack with TCP that stands for the
// sandbox's kernel. Both ends speak vnet headers and hand each other 64 KiB segments when offload is asked for.
type peer struct {
	*Stack
	inside *stack.Stack
	file   *os.File // the sandbox's end of the pair
}

// newPeer starts a door with cfg, whose missing fields are filled in, that hands its flows to h. It ends with the test.
func newPeer(t testing.TB, cfg Config, h flow.Handler) *peer {
	t.Helper()
	door, inside := framePair(t)
	cfg.Link.File, cfg.Link.Kind = door, "pair"
	cfg.Addr4, cfg.Gateway4, cfg.Addr6, cfg.Gateway6 = guest4, gateway4, guest6, gateway6
	cfg.GuestMAC, cfg.GatewayMAC = guestMAC, gatewayMAC
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{Stack: s, file: inside}
	stop := p.startInside(t, s.cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), h) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve = %v, want ErrClosed", err)
		}
		stop()
	})
	return p
}

// framePair is a device: what is written to one end as a frame is read from the other.
func framePair(t testing.TB) (door, inside *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20)
	}
	return os.NewFile(uintptr(fds[0]), "door"), os.NewFile(uintptr(fds[1]), "inside")
}

// startInside builds the sandbox's stack on the other end and returns what ends it.
func (p *peer) startInside(t testing.TB, cfg Config) (stop func()) {
	cfg.Link.File = p.file
	cfg.GuestMAC, cfg.GatewayMAC = cfg.GatewayMAC, cfg.GuestMAC
	link, err := newEndpoint(cfg, newCounters())
	if err != nil {
		t.Fatal(err)
	}
	p.inside = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := p.inside.CreateNIC(nicID, link); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{guest4, guest6} {
		if err := p.inside.AddProtocolAddress(nicID, protocolAddress(addr), stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	p.inside.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	sack := tcpip.TCPSACKEnabled(true)
	p.inside.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(10 * time.Millisecond)
	p.inside.SetTransportProtocolOption(tcp.ProtocolNumber, &timeWait)
	received := make(chan struct{})
	go func() {
		defer close(received)
		readUnfiltered(link)
	}()
	return func() {
		p.inside.Destroy()
		link.interrupt()
		<-received
		link.shut()
	}
}

// readUnfiltered is readLoop for the sandbox's end, which has nobody to be wary of.
func readUnfiltered(e *endpoint) {
	ring := &rxRing{}
	defer ring.release()
	for {
		err := e.raw.Read(func(fd uintptr) bool {
			ring.n, ring.err = ring.readv(int(fd), e.vnet)
			return ring.err != syscall.EAGAIN
		})
		if err != nil || ring.err != nil || ring.n == 0 {
			return
		}
		n := ring.n
		if e.vnet {
			n -= vnetHdrLen
		}
		e.deliver(ring.take(n))
	}
}

// dial opens a TCP connection from inside the sandbox.
func (p *peer) dial(to string) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.dialContext(ctx, to)
}

func (p *peer) dialContext(ctx context.Context, to string) (*gonet.TCPConn, error) {
	ap := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, p.inside, fullAddress(ap), networkProtocol(ap.Addr()))
}

// mustDial is dial for connections that have to come up.
func (p *peer) mustDial(t testing.TB, to string) *gonet.TCPConn {
	t.Helper()
	c, err := p.dial(to)
	if err != nil {
		t.Fatalf("dial %s from inside: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// mustDialEndpoint is mustDial down to the endpoint, for what a net.Conn cannot do.
func (p *peer) mustDialEndpoint(t testing.TB, to string) tcpip.Endpoint {
	t.Helper()
	ap := netip.MustParseAddrPort(to)
	var wq waiter.Queue
	ep, terr := p.inside.NewEndpoint(tcp.ProtocolNumber, networkProtocol(ap.Addr()), &wq)
	if terr != nil {
		t.Fatal(terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr := ep.Connect(fullAddress(ap)); terr != nil {
		if _, ok := terr.(*tcpip.ErrConnectStarted); !ok {
			t.Fatal(terr)
		}
	}
	<-ready
	if terr := ep.LastError(); terr != nil {
		t.Fatal(terr)
	}
	return ep
}

// handlerOf makes a handler of a func.
func handlerOf(f func(ctx context.Context, a flow.Arrival)) flow.Handler { return handlerFunc(f) }

// toHost relays every flow to a listener on the host's loopback, dialling first, and hands out the statistics.
func toHost(l net.Listener, stats chan<- relay.Stats) flow.Handler {
	return handlerOf(func(ctx context.Context, a flow.Arrival) {
		up, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			reason := flow.HostUnreachable
			if errors.Is(err, syscall.ECONNREFUSED) {
				reason = flow.Refused
			}
			a.Reject(reason)
			return
		}
		down, err := a.Accept()
		if err != nil {
			up.Close()
			return
		}
		st := relay.Pipe(ctx, down, up, relay.Options{})
		if stats != nil {
			stats <- st
		}
	})
}

// hostListener is a server on the host's loopback that runs serve for each connection and ends with the test.
func hostListener(t testing.TB, serve func(c *net.TCPConn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l
}

// echo is a server that sends back what it gets, and ends its stream when the client has.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// wantError fails unless err's text has want in it; gonet's errors are text.
func wantError(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want %q", what, err, want)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// refuseAll rejects every flow.
var refuseAll = handlerOf(func(_ context.Context, a flow.Arrival) { a.Reject(flow.Denied) })

// bareEndpoint is the door's end of a link without a stack, and the file at the other end.
func bareEndpoint(t *testing.T) (*endpoint, *os.File) {
	t.Helper()
	door, inside := framePair(t)
	e, err := newEndpoint(Config{
		Link: Link{File: door}, MTU: DefaultMTU, Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6,
		GuestMAC: guestMAC, GatewayMAC: gatewayMAC,
	}, newCounters())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.shut()
		inside.Close()
	})
	return e, inside
}

// gatewayPort is a port of the gateway.
func gatewayPort(port uint16) netip.AddrPort { return netip.AddrPortFrom(gateway4, port) }
