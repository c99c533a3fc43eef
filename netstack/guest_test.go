package netstack

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/weir-dev/weir/flow"
)

// Addresses of the guests of the tests.
var (
	guest4   = netip.MustParseAddr("10.77.0.2")
	gateway4 = netip.MustParseAddr("10.77.0.1")
	guest6   = netip.MustParseAddr("fd77::2")
	gateway6 = netip.MustParseAddr("fd77::1")

	guestMAC   = net.HardwareAddr{0x02, 0x77, 0x65, 0x69, 0x72, 0x02}
	gatewayMAC = net.HardwareAddr{0x02, 0x77, 0x65, 0x69, 0x72, 0x01}
)

// guest is what a sandbox's kernel would be: a second stack at the other end of the door's link, which is an AF_UNIX
// pair of frames. It keeps a copy of each packet it receives that watch asked for.
type guest struct {
	*Stack // the door

	inside *stack.Stack
	link   *channel.Endpoint
	file   *os.File
	served chan error

	mu    sync.Mutex
	watch func(packet []byte)
}

// newGuest starts a door that hands its flows to h and a stack that talks to it. Both end with the test.
func newGuest(t testing.TB, limits Limits, h flow.Handler) *guest {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	door, err := New(Config{
		Link:       Link{File: os.NewFile(uintptr(fds[0]), "door"), Kind: "pair"},
		Addr4:      guest4,
		Gateway4:   gateway4,
		Addr6:      guest6,
		Gateway6:   gateway6,
		GuestMAC:   guestMAC,
		GatewayMAC: gatewayMAC,
		Limits:     limits,
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{
		Stack:  door,
		file:   os.NewFile(uintptr(fds[1]), "guest"),
		link:   channel.New(1024, DefaultMTU, ""),
		served: make(chan error, 1),
	}
	g.configure(t)
	g.link.AddNotify(g)
	received := make(chan struct{})
	go func() {
		defer close(received)
		g.receive()
	}()
	go func() { g.served <- door.Serve(context.Background(), h) }()
	t.Cleanup(func() {
		door.Close()
		if err := <-g.served; err != ErrClosed {
			t.Errorf("serve: %v", err)
		}
		g.file.Close()
		<-received
		g.inside.Destroy()
	})
	return g
}

func (g *guest) configure(t testing.TB) {
	g.inside = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := g.inside.CreateNIC(nicID, g.link); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{guest4, guest6} {
		if err := g.inside.AddProtocolAddress(nicID, protocolAddress(addr), stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	g.inside.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
}

// WriteNotify sends what the guest's stack has to send.
func (g *guest) WriteNotify() {
	for pkt := g.link.Read(); pkt != nil; pkt = g.link.Read() {
		view := pkt.ToView()
		g.send(pkt.NetworkProtocolNumber, view.AsSlice())
		view.Release()
		pkt.DecRef()
	}
}

// send sends one IP packet, whatever it is.
func (g *guest) send(proto tcpip.NetworkProtocolNumber, packet []byte) {
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(packet))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guestMAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: proto,
	})
	g.file.Write(append(frame, packet...))
}

// receive takes frames from the door until the file is closed.
func (g *guest) receive() {
	frame := make([]byte, 1<<17)
	for {
		n, err := g.file.Read(frame)
		if err != nil || n == 0 {
			return
		}
		packet := append([]byte(nil), frame[header.EthernetMinimumSize:n]...)
		g.mu.Lock()
		watch := g.watch
		g.mu.Unlock()
		if watch != nil {
			watch(packet)
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		g.link.InjectInbound(header.Ethernet(frame).Type(), pkt)
		pkt.DecRef()
	}
}

// icmpErrors returns a channel of "type/code from quoted-destination" of the ICMP errors the guest receives from now on.
func (g *guest) icmpErrors() <-chan string {
	c := make(chan string, 1024)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch = func(packet []byte) {
		if s := describeICMPError(packet); s != "" {
			c <- s
		}
	}
	return c
}

// dialUDP opens a UDP socket of the guest, connected to "address:port", or not connected for "".
func (g *guest) dialUDP(t *testing.T, to string) *gonet.UDPConn {
	t.Helper()
	var raddr *tcpip.FullAddress
	laddr := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(guest4.As4())}
	proto := ipv4.ProtocolNumber
	if to != "" {
		ap := netip.MustParseAddrPort(to)
		full := fullAddress(ap)
		raddr = &full
		if ap.Addr().Is6() {
			proto, laddr.Addr = ipv6.ProtocolNumber, tcpip.AddrFrom16(guest6.As16())
		}
	}
	conn, err := gonet.DialUDP(g.inside, &laddr, raddr, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
