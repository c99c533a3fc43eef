package netstack

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpLease is for how long a guest may use its address before it asks again. The address is its own for good.
const dhcpLease = time.Hour

// lease answers a request that parse and confirms let through: an OFFER to a DISCOVER, an ACK to a REQUEST, both with the
// guest's one address. There is no pool, so nothing is remembered.
//
// The service of gvisor-tap-vsock would do, and a test holds the replies against its own; but it links a packet dissector
// whose tables are filled when a process starts, and a run of weir is three processes: 12 ms and 19 MB.
func (d *dhcpDoor) lease(request *dhcpv4.DHCPv4) error {
	cfg := d.stack.cfg
	subnet := dhcpSubnet(cfg.Addr4, cfg.Gateway4)
	kind := dhcpv4.MessageTypeOffer
	if request.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	reply, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(cfg.Addr4.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.gateway())),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(dhcpLease)),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen()))),
		dhcpv4.WithOption(dhcpv4.OptRouter(d.gateway())),
		dhcpv4.WithOption(dhcpv4.OptDNS(d.gateway())),
		dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(cfg.MTU)}),
	)
	if err != nil {
		return fmt.Errorf("make dhcp reply: %w", err)
	}
	return d.stack.sendDHCP(d.replyTo(request), reply)
}

// replyTo is where a reply goes: to the address that a client says it has, to everybody while it has none (RFC 2131
// section 4.1).
func (d *dhcpDoor) replyTo(request *dhcpv4.DHCPv4) netip.AddrPort {
	if addr := d.stack.cfg.Addr4; request.ClientIPAddr.Equal(addr.AsSlice()) {
		return netip.AddrPortFrom(addr, dhcpv4.ClientPort)
	}
	return netip.AddrPortFrom(broadcast4, dhcpv4.ClientPort)
}
