package netstack

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// noFlows is the handler of a guest that must not make any.
func noFlows(t *testing.T) handlerFunc {
	return func(_ context.Context, a flow.Arrival) { t.Errorf("%s flow to %s", a.Network, a.Dst) }
}

// dhcpReply is what a client gets, and where it was sent.
type dhcpReply struct {
	to netip.AddrPort
	*dhcpv4.DHCPv4
}

// dhcpReplies returns a channel of the DHCP replies the guest receives from now on.
func (g *guest) dhcpReplies(t *testing.T) <-chan dhcpReply {
	c := make(chan dhcpReply, 100)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch = func(packet []byte) {
		ip := header.IPv4(packet)
		if header.IPVersion(packet) != header.IPv4Version || ip.TransportProtocol() != header.UDPProtocolNumber {
			return
		}
		u := header.UDP(ip.Payload())
		m, err := dhcpv4.FromBytes(u.Payload())
		if err != nil || u.SourcePort() != dhcpServerPort || ip.SourceAddress() != protocolAddress(gateway4).AddressWithPrefix.Address {
			t.Errorf("not a reply of the gateway: %v", err)
			return
		}
		c <- dhcpReply{addrPort(ip.DestinationAddress(), u.DestinationPort()), m}
	}
	return c
}

// sendDHCPFrom sends a request of the guest.
func (g *guest) sendDHCPFrom(src, dst string, m *dhcpv4.DHCPv4) {
	g.send(header.IPv4ProtocolNumber, udpPacket4(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), m.ToBytes()))
}

func receiveReply(t *testing.T, c <-chan dhcpReply) dhcpReply {
	t.Helper()
	select {
	case r := <-c:
		return r
	case <-time.After(patience):
		t.Fatal("no dhcp reply")
		return dhcpReply{}
	}
}

// A client gets the sandbox's own address, renews it, and may come back to it after a restart.
func TestDHCPLease(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, noFlows(t))
	replies := g.dhcpReplies(t)
	check := func(r dhcpReply, want dhcpv4.MessageType, to string) {
		t.Helper()
		if r.MessageType() != want || r.to.String() != to {
			t.Errorf("%s to %s, want %s to %s", r.MessageType(), r.to, want, to)
		}
		mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, r.Options)
		ones, _ := r.SubnetMask().Size()
		if !r.YourIPAddr.Equal(guest4.AsSlice()) || ones != 30 || err != nil || mtu != DefaultMTU ||
			len(r.Router()) != 1 || !r.Router()[0].Equal(gateway4.AsSlice()) ||
			len(r.DNS()) != 1 || !r.DNS()[0].Equal(gateway4.AsSlice()) ||
			!r.ServerIdentifier().Equal(gateway4.AsSlice()) || r.IPAddressLeaseTime(0) != time.Hour {
			t.Errorf("lease:\n%s", r.Summary())
		}
		if r.Options.Has(dhcpv4.OptionDNSDomainSearchList) {
			t.Error("an empty list of search domains was sent")
		}
	}

	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		t.Fatal(err)
	}
	g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", discover)
	offer := receiveReply(t, replies)
	check(offer, dhcpv4.MessageTypeOffer, "255.255.255.255:68")

	request, err := dhcpv4.NewRequestFromOffer(offer.DHCPv4)
	if err != nil {
		t.Fatal(err)
	}
	g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", request)
	ack := receiveReply(t, replies)
	check(ack, dhcpv4.MessageTypeAck, "255.255.255.255:68")

	renew, err := dhcpv4.NewRenewFromAck(ack.DHCPv4)
	if err != nil {
		t.Fatal(err)
	}
	g.sendDHCPFrom("10.77.0.2:68", "10.77.0.1:67", renew)
	check(receiveReply(t, replies), dhcpv4.MessageTypeAck, "10.77.0.2:68")

	reboot, err := dhcpv4.New(dhcpv4.WithHwAddr(guestMAC), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(guest4.AsSlice())))
	if err != nil {
		t.Fatal(err)
	}
	g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", reboot)
	check(receiveReply(t, replies), dhcpv4.MessageTypeAck, "255.255.255.255:68")

	// An address of another network is refused (RFC 2131 section 4.3.2).
	reboot.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 168, 1, 5)))
	g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", reboot)
	if r := receiveReply(t, replies); r.MessageType() != dhcpv4.MessageTypeNak || !r.YourIPAddr.IsUnspecified() ||
		r.to.String() != "255.255.255.255:68" || !r.ServerIdentifier().Equal(gateway4.AsSlice()) {
		t.Errorf("for a foreign address: to %s\n%s", r.to, r.Summary())
	}
}

// What is no request of the guest to this server is dropped before it reaches the server, which then does not even exist.
func TestDHCPDropped(t *testing.T) {
	request := func(change ...dhcpv4.Modifier) []byte {
		m, err := dhcpv4.NewDiscovery(guestMAC, change...)
		if err != nil {
			t.Fatal(err)
		}
		return m.ToBytes()
	}
	for _, c := range []struct {
		name    string
		payload []byte
	}{
		{"nothing", nil},
		{"junk", []byte("\x01\x01\x06\x00junk")},
		{"another hardware address", request(dhcpv4.WithHwAddr(gatewayMAC))},
		{"hardware address of 16 bytes", request(dhcpv4.WithHwAddr(make([]byte, 16)))},
		{"a reply", request(dhcpv4.WithReply(&dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, ClientHWAddr: guestMAC}))},
		{"a release", request(dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease))},
		{"an inform", request(dhcpv4.WithMessageType(dhcpv4.MessageTypeInform))},
		{"by way of a relay", request(dhcpv4.WithGatewayIP(net.IPv4(10, 0, 0, 1)))},
		{"for another server", request(dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))))},
		{"too large", append(request(), make([]byte, maxDHCP)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			g := newGuest(t, Limits{}, noFlows(t))
			got := g.answers()
			g.send(header.IPv4ProtocolNumber, udpPacket4(netip.MustParseAddrPort("0.0.0.0:68"),
				netip.MustParseAddrPort("255.255.255.255:67"), c.payload))
			g.send(echoPacket("10.77.0.1", 0, 0, "end"))
			if s := receiveString(t, got); s != "10.77.0.1 0/0 end" {
				t.Errorf("got %s", s)
			}
			if n := g.Counters()[countDHCPInvalid]; n != 1 {
				t.Errorf("not counted: %v", g.Counters())
			}
		})
	}
}

func TestDHCPRate(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, noFlows(t))
	got := g.answers()
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const sent = 1000
	for range sent {
		g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", discover)
	}
	g.send(echoPacket("10.77.0.1", 0, 0, "end"))
	receiveString(t, got)
	c := g.Counters()
	limit := uint64(dhcpBurst + int(time.Since(began).Seconds()*dhcpRate) + 1)
	if c[countDHCPRequests] > limit || c[countDHCPRequests] < 1 || c[countDHCPRequests]+c[countDHCPRate] != sent {
		t.Errorf("%d requests looked at, %d dropped; the limit is %d", c[countDHCPRequests], c[countDHCPRate], limit)
	}
}

// The ports of DHCP are ordinary ports everywhere else.
func TestDHCPElsewhereIsAFlow(t *testing.T) {
	noLeaks(t)
	g := newGuest(t, Limits{}, echoHandler)
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		t.Fatal(err)
	}
	replies := g.dhcpReplies(t)
	g.sendDHCPFrom("0.0.0.0:68", "255.255.255.255:67", discover)
	receiveReply(t, replies)
	g.mu.Lock()
	g.watch = nil
	g.mu.Unlock()
	conn := g.dialUDP(t, "192.0.2.1:67")
	conn.SetDeadline(time.Now().Add(patience))
	conn.Write([]byte("x"))
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "192.0.2.1:67 x" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

func TestDHCPSubnet(t *testing.T) {
	for _, c := range []struct{ addr, gateway, want string }{
		{"10.77.0.2", "10.77.0.1", "10.77.0.0/30"},
		{"10.0.2.100", "10.0.2.2", "10.0.2.0/25"},
		{"10.77.0.4", "10.77.0.1", "10.77.0.0/29"},
		{"10.77.0.3", "10.77.0.1", "10.77.0.0/29"},
		{"192.168.127.2", "192.168.0.1", "192.168.0.0/17"},
		{"10.0.0.2", "192.168.0.1", "0.0.0.0/0"},
	} {
		if got := dhcpSubnet(netip.MustParseAddr(c.addr), netip.MustParseAddr(c.gateway)).String(); got != c.want {
			t.Errorf("%s by %s: %s, want %s", c.addr, c.gateway, got, c.want)
		}
	}
}

// The parser must stand any message, and let through only what the server answers with the guest's lease.
func FuzzDHCPParse(f *testing.F) {
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(discover.ToBytes())
	f.Add([]byte("\x01\x01\x06\x00junk"))
	discover.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 2)))
	discover.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	f.Add(discover.ToBytes())
	d := newDHCPDoor(&Stack{cfg: Config{Addr4: guest4, Gateway4: gateway4, GuestMAC: guestMAC}})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := d.parse(b)
		if err != nil {
			return
		}
		if m.ClientHWAddr.String() != guestMAC.String() {
			t.Errorf("for %s", m.ClientHWAddr)
		}
		d.confirms(m)
		if _, err := dhcpv4.NewReplyFromRequest(m); err != nil {
			t.Errorf("no reply can be made: %v", err)
		}
	})
}
