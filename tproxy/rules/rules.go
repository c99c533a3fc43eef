//go:build linux

package rules

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Inside says how the door is set up in a sandbox.
type Inside struct {
	// Addr4 and Addr6 are the sandbox's own addresses. A zero Addr6 leaves it without IPv6, ::1 excepted.
	Addr4, Addr6 netip.Addr
	// Gateway4 and Gateway6 are the addresses of the door: its listeners are bound to them, and port 53 of them is the
	// resolver's.
	Gateway4, Gateway6 netip.Addr
	// Port is where the listeners are.
	Port uint16
	// Beside says that the namespace has a link with the sandbox's addresses, for all that is neither TCP nor UDP.
	Beside bool
	// Hold asks for SYNs to be held where the kernel can do that, and Queue is the NFQUEUE number under which.
	Hold  bool
	Queue uint16
	// LogGroup is the NFLOG group that hears of dropped packets.
	LogGroup uint16

	// connect is [nftables.New], unless a test has a kernel that lacks something.
	connect func() (*nftables.Conn, error)
}

// The prefixes under which dropped packets are said; they are the names of the door's counters.
const (
	DropSource    = "drop-source"
	DropMulticast = "drop-multicast"
	DropProtocol  = "drop-protocol"
	DropLink      = "drop-link"
)

// dnsPort is where the resolver listens on the gateway's addresses.
const dnsPort = 53

// logBytes is how much of a dropped packet is said: the headers.
const logBytes = 64

// family is what differs between IPv4 and IPv6 in a ruleset.
type family struct {
	table         nftables.TableFamily
	src, dst, len uint32 // where the addresses are in the network header
	own, gateway  netip.Addr
	loopback      netip.Prefix
	noUnicast     []netip.Prefix
	icmp          byte
}

func (c Inside) families() []family {
	list := []family{{
		table: nftables.TableFamilyIPv4, src: 12, dst: 16, len: 4, own: c.Addr4, gateway: c.Gateway4,
		loopback:  netip.MustParsePrefix("127.0.0.0/8"),
		noUnicast: []netip.Prefix{netip.MustParsePrefix("224.0.0.0/3")}, // multicast, class E, broadcast
		icmp:      unix.IPPROTO_ICMP,
	}}
	if c.Addr6.IsValid() {
		list = append(list, family{
			table: nftables.TableFamilyIPv6, src: 8, dst: 24, len: 16, own: c.Addr6, gateway: c.Gateway6,
			loopback:  netip.MustParsePrefix("::1/128"),
			noUnicast: []netip.Prefix{netip.MustParsePrefix("ff00::/8")},
			icmp:      unix.IPPROTO_ICMPV6,
		})
	}
	return list
}

// nftables opens a connection to the kernel's.
func (c Inside) nftables() (*nftables.Conn, error) {
	if c.connect != nil {
		return c.connect()
	}
	return nftables.New()
}

// install adds a table for each family, in one transaction.
func (c Inside) install() error {
	conn, err := c.nftables()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	policy := nftables.ChainPolicyDrop
	for _, f := range c.families() {
		table := conn.AddTable(&nftables.Table{Family: f.table, Name: "weir"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle, Policy: &policy,
		})
		for _, r := range c.rules(f) {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add rules: %w", err)
	}
	return nil
}

// rules are the lines of the package comment's table.
func (c Inside) rules(f family) [][]expr.Any {
	own, gateway := whole(f.own), whole(f.gateway)
	list := c.links()
	list = append(list,
		join(f.address(f.dst, expr.CmpOpEq, f.loopback), accept()),
		join(f.address(f.dst, expr.CmpOpEq, own), accept()),
		join(f.address(f.src, expr.CmpOpNeq, own), c.drop(DropSource)),
	)
	for _, p := range f.noUnicast {
		list = append(list, join(f.address(f.dst, expr.CmpOpEq, p), c.drop(DropMulticast)))
	}
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		list = append(list,
			join(transport(protocol), f.address(f.dst, expr.CmpOpEq, gateway), port(dnsPort), accept()),
			join(transport(protocol), c.tproxy(f), accept()))
	}
	return append(list, join(transport(f.icmp), unreachable(f.icmp), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}), c.drop(DropProtocol))
}

// unreachable matches the ICMP message by which the program's kernel says that nobody takes an answer any more. It is dropped
// without a word: no program has sent it, and the flow lasts for the next datagram, or until it is idle.
func unreachable(icmp byte) []expr.Any {
	kind := byte(3) // RFC 792
	if icmp == unix.IPPROTO_ICMPV6 {
		kind = 1 // RFC 4443 section 3.1
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}},
	}
}

// links are the rules about what does not come by lo.
func (c Inside) links() [][]expr.Any {
	if !c.Beside {
		return [][]expr.Any{join(linkIsNot("lo"), c.drop(DropLink))}
	}
	return [][]expr.Any{
		join(linkIsNot("lo"), transport(unix.IPPROTO_TCP), c.drop(DropLink)),
		join(linkIsNot("lo"), transport(unix.IPPROTO_UDP), c.drop(DropLink)),
		join(linkIsNot("lo"), accept()),
	}
}

// whole is the prefix that is the address alone.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func linkIsNot(name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: padded}}
}

// address compares the address at an offset of the network header with a prefix.
func (f family) address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	mask := make([]byte, f.len)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.len},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.len, Mask: mask, Xor: make([]byte, f.len)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

func transport(protocol byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}}}
}

// port compares the destination port of TCP or UDP.
func port(p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p)},
	}
}

// tproxy gives the packet to the socket of its own connection, or else to the listener.
func (c Inside) tproxy(f family) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: f.gateway.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(c.Port)},
		&expr.TProxy{Family: byte(f.table), TableFamily: byte(f.table), RegAddr: 1, RegPort: 2},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// drop says the packet to the log group and drops it.
func (c Inside) drop(name string) []expr.Any { return dropAs(c.LogGroup, name) }

func dropAs(group uint16, name string) []expr.Any {
	return []expr.Any{
		&expr.Log{
			Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: group, Snaplen: logBytes, Data: []byte(name),
		},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}
