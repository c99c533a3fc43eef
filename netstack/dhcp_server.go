package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/containers/gvisor-tap-vsock/pkg/services/dhcp"
	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// dhcpServer is gvisor-tap-vsock's DHCP service on a small stack of its own. It binds port 67 of every address, which on
// the door's stack would take datagrams from the policy; here it only sees what dhcpDoor lets through.
//
// Linking it has a price that is paid whether a guest asks or not: its tap package imports google/gopacket/layers, whose
// tables are filled when a process starts (about 5 ms and 7 MB in each of the three processes of a run; docs/bench.md).
type dhcpServer struct {
	door  *Stack
	stack *stack.Stack
	link  *channel.Endpoint
}

// dhcpReplies is how many replies may wait to be sent; the server sends one for each request, at once.
const dhcpReplies = dhcpBurst

// newDHCPServer starts a server that leases the sandbox's one address. It ends with the door.
func newDHCPServer(s *Stack) (*dhcpServer, error) {
	d := &dhcpServer{
		door: s,
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{udp.NewProtocol},
		}),
		link: channel.New(dhcpReplies, s.cfg.MTU, ""),
	}
	d.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload // verified before
	server, err := d.listen()
	if err != nil {
		d.stack.Destroy()
		return nil, fmt.Errorf("start dhcp server: %w", err)
	}
	context.AfterFunc(s.ctx, func() { server.Underlying.Close() })
	started := s.spawn(func() {
		server.Serve() // until it is closed; there is no other way for it to end
		d.stack.Destroy()
	})
	if !started {
		server.Underlying.Close()
		d.stack.Destroy()
		return nil, fmt.Errorf("start dhcp server: %w", net.ErrClosed)
	}
	return d, nil
}

// listen configures the small stack and binds the service to it.
func (d *dhcpServer) listen() (*dhcp.Server, error) {
	cfg := d.door.cfg
	if err := d.stack.CreateNIC(nicID, d.link); err != nil {
		return nil, fmt.Errorf("create interface: %w", errnoOf(err))
	}
	d.link.AddNotify(d)
	if err := d.stack.AddProtocolAddress(nicID, protocolAddress(cfg.Gateway4), stack.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("add address: %w", errnoOf(err))
	}
	d.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})

	// The pool has no address but the guest's, and that has its owner.
	host := &net.IPNet{IP: cfg.Addr4.AsSlice(), Mask: net.CIDRMask(32, 32)}
	pool := tap.NewIPPool(host)
	pool.Reserve(cfg.Addr4.AsSlice(), cfg.GuestMAC.String())
	return dhcp.New(&types.Configuration{
		Subnet:    dhcpSubnet(cfg.Addr4, cfg.Gateway4).String(),
		GatewayIP: cfg.Gateway4.String(),
		MTU:       int(cfg.MTU),
	}, d.stack, pool)
}

// receive hands a request, a whole IPv4 packet, to the server.
func (d *dhcpServer) receive(request *stack.PacketBuffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(stack.PayloadSince(request.NetworkHeader())),
	})
	defer pkt.DecRef()
	d.link.InjectInbound(header.IPv4ProtocolNumber, pkt)
}

// WriteNotify implements channel.Notification: the server sends a reply.
func (d *dhcpServer) WriteNotify() {
	pkt := d.link.Read()
	if pkt == nil {
		return
	}
	defer pkt.DecRef()
	if err := d.forward(pkt); err != nil {
		d.door.cfg.Log.WithError(err).Debug("dhcp reply not sent")
	}
}

// forward sends the server's reply into the sandbox, without the list of search domains: the service adds it although it
// is empty, and RFC 3397 has no empty lists.
func (d *dhcpServer) forward(pkt *stack.PacketBuffer) error {
	m, err := dhcpv4.FromBytes(pkt.Data().AsRange().ToSlice())
	if err != nil {
		return fmt.Errorf("parse dhcp reply: %w", err)
	}
	m.Options.Del(dhcpv4.OptionDNSDomainSearchList)
	to := netip.AddrPortFrom(
		addrPort(pkt.Network().DestinationAddress(), 0).Addr(),
		header.UDP(pkt.TransportHeader().Slice()).DestinationPort())
	return d.door.sendDHCP(to, m)
}
