//go:build linux

package rules

import (
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// On the bridge every frame is looked at when it comes in by a port, where nobody can pretend to be behind another one. The
// port is known by its index, which no later link gets, and the kind of a frame by its header as it was sent: one with a VLAN
// tag would come up by another link.
//
//	hardware address not the container's       drop, and say so
//	ARP                                        pass, if it speaks for the container's own addresses
//	IP from another address                    drop, and say so
//	IPv6 neighbour discovery                   pass, if it speaks for the container's own addresses
//	IP to a group                              drop, and say so
//	IP                                         mark it, and send it up to the host: to another container, too
//	everything else                            drop, and say so
//
// So what one container sends to another is a flow through the door as any other. What comes up without the mark is from a
// port that is not known yet, and dropped there.

// Offsets in an Ethernet header and an ARP message for IPv4 (RFC 826).
const (
	etherDst, etherSrc, etherKind, etherAddr = 0, 6, 12, 6
	arpSenderMAC, arpSender                  = 8, 14
)

// Neighbour discovery (RFC 4861) that containers need: who solicits a router, and who asks and tells about neighbours.
const (
	routerSolicitation     = 133
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
	neighbourTarget        = 8 // offset of the address that a solicitation or an advertisement is about
)

// listenerReports are what a kernel says unasked of the groups it listens to (RFC 2710, RFC 3810): nothing is lost with them.
var listenerReports = []byte{131, 132, 143}

var neighbourKinds = []byte{routerSolicitation, neighbourSolicitation, neighbourAdvertisement}

// bridgePriority is before those who may change a frame.
const bridgePriority = nftables.ChainPriority(-400)

func (h *Host) addBridgeChains(conn *nftables.Conn, t *nftables.Table) {
	up := drop() // the bridge is gone
	m := h.numbers.marks()
	if h.bridge = hardwareAddr(h.cfg.Link); h.bridge != nil {
		up = join(setMark(m.Mask, m.Seen), toBridge(h.bridge), accept()) // the frame goes up to the host
	}
	own := map[string]*nftables.Chain{}
	for port := range h.guests {
		own[port] = conn.AddChain(&nftables.Chain{Name: "port-" + port, Table: t})
	}
	prerouting := h.chain(conn, t, "ports", bridgePriority)
	for _, port := range slices.Sorted(maps.Keys(h.guests)) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: prerouting, Exprs: join(linkAt(h.guests[port].Index), jump(own[port].Name))})
		for _, exprs := range h.portRules(h.guests[port], up) {
			conn.AddRule(&nftables.Rule{Table: t, Chain: own[port], Exprs: exprs})
		}
	}
	for _, port := range h.unknown {
		conn.AddRule(&nftables.Rule{Table: t, Chain: prerouting, Exprs: join(linkIs(port), drop())})
	}
}

// hardwareAddr is that of the link, nil if there is none.
func hardwareAddr(link string) net.HardwareAddr {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return nil
	}
	return l.HardwareAddr
}

// portRules are the lines of the table above for one port.
func (h *Host) portRules(g *guest, up []expr.Any) [][]expr.Any {
	no := func(name string) []expr.Any { return dropAs(g.group, name) }
	list := [][]expr.Any{
		join(payload(expr.PayloadBaseLLHeader, etherSrc, expr.CmpOpNeq, g.MAC), no(DropSource)),
		join(etherType(unix.ETH_P_ARP), payload(expr.PayloadBaseNetworkHeader, arpSenderMAC, expr.CmpOpNeq, g.MAC), no(DropPeer)),
	}
	f4, f6 := families()[0], families()[1]
	addrs4 := []netip.Addr{netip.IPv4Unspecified()} // who asks whether an address is free has none (RFC 5227)
	for _, a := range g.Addrs {
		if a.Is4() {
			addrs4 = append(addrs4, a)
		}
	}
	for _, a := range addrs4 {
		list = append(list, join(etherType(unix.ETH_P_ARP), payload(expr.PayloadBaseNetworkHeader, arpSender, expr.CmpOpEq, a.AsSlice()), accept()))
	}
	list = append(list, join(etherType(unix.ETH_P_ARP), no(DropPeer)))

	list = append(list, h.neighbourRules(g, no)...)
	group := join(etherGroup(), no(DropMulticast))
	for _, a := range g.Addrs {
		if a.IsLinkLocalUnicast() {
			continue // for neighbour discovery only
		}
		f, kind := f4, uint16(unix.ETH_P_IP)
		if a.Is6() {
			f, kind = f6, unix.ETH_P_IPV6
		}
		from := join(etherType(kind), f.address(f.src, expr.CmpOpEq, whole(a)))
		list = append(list, join(from, group), join(from, up))
	}
	return append(list,
		join(etherType(unix.ETH_P_IP), no(DropSource)),
		join(etherType(unix.ETH_P_IPV6), no(DropSource)),
		no(DropProtocol))
}

// neighbourRules let a container solicit from its own addresses, and advertise its own. From no address it may ask whether one
// of its own is free: who asks that of another's takes it away from one that comes up (RFC 4862 section 5.4.3).
func (h *Host) neighbourRules(g *guest, no func(string) []expr.Any) (list [][]expr.Any) {
	f := families()[1]
	m := h.numbers.marks()
	pass := join(setMark(m.Mask, m.Seen), accept())
	v6 := etherType(unix.ETH_P_IPV6)
	for _, a := range append([]netip.Addr{netip.IPv6Unspecified()}, g.Addrs...) {
		if !a.Is6() {
			continue
		}
		from := join(v6, f.address(f.src, expr.CmpOpEq, whole(a)))
		list = append(list, join(from, icmp6(routerSolicitation), pass))
		if a.IsUnspecified() {
			continue
		}
		about := payload(expr.PayloadBaseTransportHeader, neighbourTarget, expr.CmpOpEq, a.AsSlice())
		list = append(list, join(v6, icmp6(neighbourAdvertisement), about, pass), join(from, icmp6(neighbourSolicitation), pass),
			join(v6, f.address(f.src, expr.CmpOpEq, whole(netip.IPv6Unspecified())), icmp6(neighbourSolicitation), about, pass))
	}
	for _, kind := range neighbourKinds {
		list = append(list, join(v6, icmp6(kind), no(DropPeer)))
	}
	for _, kind := range listenerReports {
		list = append(list, join(v6, icmp6(kind), drop()))
	}
	return list
}

// toBridge makes the host the frame's receiver.
func toBridge(mac net.HardwareAddr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: mac},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: etherDst, Len: etherAddr},
		&expr.Immediate{Register: 1, Data: []byte{unix.PACKET_HOST}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: 1},
	}
}

// linkAt matches what comes in by the link with the index.
func linkAt(index int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(index))}}
}

func linkIs(name string) []expr.Any {
	list := linkIsNot(name)
	list[1].(*expr.Cmp).Op = expr.CmpOpEq
	return list
}

// etherType matches what follows the hardware addresses in the header: of a frame with a VLAN tag that is the tag's type, where
// the kernel's own idea of the protocol (meta protocol) is what lies behind it.
func etherType(kind uint16) []expr.Any {
	return payload(expr.PayloadBaseLLHeader, etherKind, expr.CmpOpEq, binaryutil.BigEndian.PutUint16(kind))
}

// etherGroup matches what is for a group of hosts, or for all.
func etherGroup() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: etherDst, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

func payload(base expr.PayloadBase, offset uint32, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(value))},
		&expr.Cmp{Op: op, Register: 1, Data: value},
	}
}

// icmp6 matches one type of ICMPv6 message.
func icmp6(kind byte) []expr.Any {
	return join(transport(unix.IPPROTO_ICMPV6), payload(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, []byte{kind}))
}
