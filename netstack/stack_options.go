package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// withDefaults returns a copy of c with the zero values filled in, or says what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	switch {
	case c.Link.File == nil:
		return c, errors.New("no link")
	case c.MTU < minMTU || c.MTU > maxMTU:
		return c, fmt.Errorf("mtu %d out of range %d to %d", c.MTU, minMTU, maxMTU)
	case !c.Addr4.Is4() || !c.Gateway4.Is4():
		return c, errors.New("no IPv4 address")
	case c.Addr6.IsValid() && (!c.Addr6.Is6() || !c.Gateway6.Is6()):
		return c, errors.New("IPv6 address without IPv6 gateway")
	case len(c.GuestMAC) != header.EthernetAddressSize || len(c.GatewayMAC) != header.EthernetAddressSize:
		return c, errors.New("hardware address is not 6 bytes")
	}
	c.Limits = c.Limits.withDefaults()
	if c.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		c.Log = quiet
	}
	return c, nil
}

// configure sets the stack's options, its one interface, and the routes.
func (s *Stack) configure() error {
	if err := s.setTCPOptions(); err != nil {
		return err
	}
	if err := s.stack.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	gateways := []netip.Addr{s.cfg.Gateway4}
	if s.cfg.Addr6.IsValid() {
		gateways = append(gateways, s.cfg.Gateway6)
	}
	for _, gw := range gateways {
		if err := s.stack.AddProtocolAddress(nicID, protocolAddress(gw), stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", gw, err)
		}
	}
	s.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	if err := s.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("set promiscuous: %s", err)
	}
	if err := s.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("set spoofing: %s", err)
	}
	return nil
}

// protocolAddress is addr as a host route in gVisor's terms.
func protocolAddress(addr netip.Addr) tcpip.ProtocolAddress {
	return tcpip.ProtocolAddress{
		Protocol: networkProtocol(addr),
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address:   tcpip.AddrFromSlice(addr.AsSlice()),
			PrefixLen: addr.BitLen(),
		},
	}
}

// networkProtocol is the ethertype of addr's family.
func networkProtocol(addr netip.Addr) tcpip.NetworkProtocolNumber {
	if addr.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// addrPort is a gVisor address and port as a netip.AddrPort.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// fullAddress is the inverse of addrPort, on the stack's only interface.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(ap.Addr().AsSlice()), Port: ap.Port()}
}

// TCP timers. They bound how long a flow that ended badly holds memory.
const (
	tcpTimeWait   = 250 * time.Millisecond
	tcpFinWait2   = 30 * time.Second
	tcpSynRetries = 3
	tcpMaxRetries = 8
)

// setTCPOptions fixes the stack's TCP behaviour: SACK and RACK on, no Nagle delay, buffers that grow by need.
func (s *Stack) setTCPOptions() error {
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRACKLossDetection
	delay := tcpip.TCPDelayEnabled(false)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(tcpTimeWait)
	linger := tcpip.TCPLingerTimeoutOption(tcpFinWait2)
	synRetries := tcpip.TCPSynRetriesOption(tcpSynRetries)
	maxRetries := tcpip.TCPMaxRetriesOption(tcpMaxRetries)
	l := s.cfg.Limits
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: l.BufferStart, Max: l.BufferMax}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: l.BufferStart, Max: l.BufferMax}
	for _, opt := range []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &delay, &moderate, &timeWait, &linger, &synRetries, &maxRetries, &rcv, &snd,
	} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set %T: %s", opt, err)
		}
	}
	return nil
}
