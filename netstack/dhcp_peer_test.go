package netstack

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

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

// peerDHCP runs gvisor-tap-vsock's DHCP service for the guest's address and returns what asks it.
func peerDHCP(t *testing.T) func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	link := channel.New(1, DefaultMTU, "")
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{udp.NewProtocol},
	})
	if err := s.CreateNIC(nicID, link); err != nil {
		t.Fatal(err)
	}
	if err := s.AddProtocolAddress(nicID, protocolAddress(gateway4), stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	pool := tap.NewIPPool(&net.IPNet{IP: guest4.AsSlice(), Mask: net.CIDRMask(32, 32)})
	pool.Reserve(guest4.AsSlice(), guestMAC.String())
	server, err := dhcp.New(&types.Configuration{
		Subnet: dhcpSubnet(guest4, gateway4).String(), GatewayIP: gateway4.String(), MTU: DefaultMTU,
	}, s, pool)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve() }()
	t.Cleanup(func() {
		server.Underlying.Close()
		<-done
		s.Destroy()
	})
	return func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		request := udpPacket4(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes())
		in := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(request)})
		link.InjectInbound(header.IPv4ProtocolNumber, in)
		in.DecRef()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out := link.ReadContext(ctx)
		if out == nil {
			t.Fatal("the peer does not answer")
		}
		defer out.DecRef()
		reply, err := dhcpv4.FromBytes(out.Data().AsRange().ToSlice())
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
}

// A lease of ours says what gvisor-tap-vsock's service says, but for the list of search domains: that one sends it empty,
// and RFC 3397 has no empty lists.
func TestDHCPLeaseLikePeer(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, noFlows(t))
	replies := g.dhcpReplies(t)
	peer := peerDHCP(t)
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		t.Fatal(err)
	}
	request, err := dhcpv4.New(dhcpv4.WithHwAddr(guestMAC), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(guest4.AsSlice())))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*dhcpv4.DHCPv4{discover, request} {
		g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", m)
		got, want := receiveReply(t, replies).DHCPv4, peer(m)
		want.Options.Del(dhcpv4.OptionDNSDomainSearchList)
		if !maps.EqualFunc(got.Options, want.Options, slices.Equal) || !got.YourIPAddr.Equal(want.YourIPAddr) ||
			got.TransactionID != want.TransactionID || got.IPAddressLeaseTime(0) != time.Hour {
			t.Errorf("lease:\n%s\nthe peer's:\n%s", got.Summary(), want.Summary())
		}
	}
}
