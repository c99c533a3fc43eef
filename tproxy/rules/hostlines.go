//go:build linux

package rules

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The door stands in prerouting behind everybody else's chains, address translation included: whatever these have done to
// a packet, its way is decided here, and a connection to a published port is judged by where it really goes.
const (
	hostHold = nftables.ChainPriority(-99)
	hostDoor = nftables.ChainPriority(-98)

	// hostOut is behind connection tracking.
	hostOut = nftables.ChainPriority(-100)
)

// What is dropped by the host's door only.
const (
	DropPeer = "drop-neighbour" // an ARP or neighbour message that speaks for somebody else
)

// holding is how SYNs are held.
type holding struct {
	way int // which of holdLines; their number: not at all
}

// install makes the tables anew, in one transaction: packets meet the old rules or the new ones.
func (h *Host) install() error {
	for {
		err := h.transact()
		hasQueue := false
		for _, g := range h.guests {
			hasQueue = hasQueue || g.held
		}
		if err == nil || !hasQueue || h.holding.way >= len(Inside{}.holdLines()) || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		h.holding.way++ // the kernel does not know this one
	}
}

// transactionRoom is how much the kernel may hold of a transaction and of its answers, in octets: it takes a transaction in one
// piece and answers each rule with a kilobyte or two, of which a container has some sixty. Where weir may not have that much
// (in a user namespace), it is what net.core.rmem_max and wmem_max allow.
const transactionRoom = 64 << 20

func giveRoom[C interface {
	SetReadBuffer(octets int) error
	SetWriteBuffer(octets int) error
}](c C) error {
	return errors.Join(c.SetReadBuffer(transactionRoom), c.SetWriteBuffer(transactionRoom))
}

func (h *Host) transact() error {
	conn, err := nftables.New(nftables.WithSockOptions(giveRoom))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range h.tables() {
		conn.AddTable(t) // so that there is one to delete
		conn.DelTable(t)
		conn.AddTable(t)
		if t.Family == nftables.TableFamilyBridge {
			h.addBridgeChains(conn, t)
			continue
		}
		for _, s := range h.records {
			conn.AddChain(&nftables.Chain{Name: s.record(), Table: t})
		}
		h.addChains(conn, t)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add nftables rules: %w", told(err))
	}
	if h.rulings, err = h.listRulings(); err != nil {
		h.rulings = nil // Restore makes them anew
	}
	return nil
}

// told puts a name to what the kernel says.
func told(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return ErrPrivilege
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w", ErrNoNFTables, err)
	}
	return err
}

// ProbeHost asks the kernel for all that a door on the host needs, and leaves nothing behind. The error is [ErrPrivilege],
// [ErrNoNFTables] or [ErrNoTPROXY].
func ProbeHost() error {
	for _, step := range []struct {
		family  nftables.TableFamily
		exprs   []expr.Any
		lacking error
	}{
		{nftables.TableFamilyBridge, []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}, ErrNoNFTables},
		{nftables.TableFamilyIPv4, tproxyTo(families()[0], 9), ErrNoTPROXY},
		{nftables.TableFamilyIPv4, []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}}, ErrNoNFTables},
		{nftables.TableFamilyIPv4, []expr.Any{&expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: 1}}, ErrNoNFTables},
	} {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		table := conn.AddTable(&nftables.Table{Family: step.family, Name: "weir-probe"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: step.exprs})
		conn.DelTable(table)
		switch err := conn.Flush(); {
		case err == nil:
		case errors.Is(err, unix.EPERM):
			return ErrPrivilege
		default:
			return fmt.Errorf("%w: %w", step.lacking, err)
		}
	}
	return nil
}

func families() []family { return Inside{Addr6: netip.IPv6Unspecified()}.families() }

// addChains are the chains of one IP family:
//
//	not by the link                       not ours
//	without the bridge's mark             drop: nobody known sent it
//	from a guest's address, and
//	  answers a connection to it          pass: a published port, or the host's own connection
//	  else                                that guest's chain
//	else                                  drop
//
// and a guest's chain gives questions to its resolvers, other TCP and UDP to its listeners, and drops the rest.
func (h *Host) addChains(conn *nftables.Conn, t *nftables.Table) {
	f := families()[0]
	if t.Family == nftables.TableFamilyIPv6 {
		f = families()[1]
	}
	own := map[string]*nftables.Chain{}
	for port := range h.guests {
		own[port] = conn.AddChain(&nftables.Chain{Name: "from-" + port, Table: t})
	}
	hold := h.chain(conn, t, "hold", hostHold)
	door := h.chain(conn, t, "door", hostDoor)
	add := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: join(exprs...)})
	}
	m := h.numbers.marks()
	for _, c := range []struct {
		chain   *nftables.Chain
		unknown []expr.Any // what becomes of a packet that nobody known sent
	}{{hold, accept()}, {door, drop()}} {
		add(c.chain, linkIsNot(h.cfg.Link), accept())
		if h.cfg.Only != "" {
			c.unknown = accept() // from another port
		}
		if !h.cfg.Single {
			add(c.chain, mark(expr.CmpOpNeq, m.Mask, m.Seen), c.unknown)
		}
		for _, port := range slices.Sorted(maps.Keys(h.guests)) {
			for _, from := range h.guests[port].sources(f) {
				add(c.chain, f.address(f.src, expr.CmpOpEq, whole(from)), isReply(), answeredBy(from), ctMark(expr.CmpOpNeq, m.Mask, m.Reply), accept())
			}
		}
	}
	for _, port := range slices.Sorted(maps.Keys(h.guests)) {
		g := h.guests[port]
		for _, a := range g.sources(f) {
			from := f.address(f.src, expr.CmpOpEq, whole(a))
			add(door, from, jump(own[port].Name))
			if lines := (Inside{Queue: g.queue}).holdLines(); g.held && h.holding.way < len(lines) {
				for _, r := range h.resolversOf(g, f) {
					add(hold, from, transport(unix.IPPROTO_TCP), f.address(f.dst, expr.CmpOpEq, whole(r)), port53(), accept())
				}
				add(hold, from, transport(unix.IPPROTO_TCP), syn(), lines[h.holding.way])
			}
		}
		for _, rule := range h.guestRules(g, f) {
			add(own[port], rule)
		}
	}
	if f.len == 16 {
		for _, kind := range neighbourKinds {
			add(door, icmp6(kind), accept())
		}
	}
	add(door, drop())

	priority, policy := hostOut, nftables.ChainPolicyAccept
	out := conn.AddChain(&nftables.Chain{Name: "replies", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: &priority, Policy: &policy})
	add(out, mark(expr.CmpOpEq, m.Mask, m.Reply), isOriginal(), setCtMark(m.Reply))
}

// sources are the addresses of a family that the guest is known by: a link-local one may be another guest's as well.
func (g *guest) sources(f family) (list []netip.Addr) {
	for _, a := range g.Addrs {
		if a.Is4() == (f.len == 4) && !a.IsLinkLocalUnicast() {
			list = append(list, a)
		}
	}
	return list
}

// chain adds a chain of prerouting.
func (h *Host) chain(conn *nftables.Conn, t *nftables.Table, name string, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return conn.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: &priority, Policy: &policy})
}

func port53() []expr.Any { return port(dnsPort) }

func (h *Host) resolversOf(g *guest, f family) (list []netip.Addr) {
	for _, r := range g.Resolvers {
		if r.Is4() == (f.len == 4) {
			list = append(list, r)
		}
	}
	return list
}

// guestRules are what becomes of a guest's packets.
func (h *Host) guestRules(g *guest, f family) (list [][]expr.Any) {
	i := 0
	if f.len == 16 {
		i = 1
		for _, kind := range neighbourKinds {
			list = append(list, join(icmp6(kind), accept()))
		}
	}
	for _, p := range f.noUnicast {
		list = append(list, join(f.address(f.dst, expr.CmpOpEq, p), dropAs(g.group, DropMulticast)))
	}
	m := h.numbers.marks()
	take := func(port uint16) []expr.Any { return join(tproxyTo(f, port), setMark(m.Mask, m.Door), accept()) }
	for _, r := range h.resolversOf(g, f) {
		to := f.address(f.dst, expr.CmpOpEq, whole(r))
		if g.dns[i] != 0 {
			list = append(list, join(transport(unix.IPPROTO_UDP), to, port53(), take(g.dns[i])))
		}
		if g.dns2[i] != 0 {
			list = append(list, join(transport(unix.IPPROTO_TCP), to, port53(), take(g.dns2[i])))
		}
	}
	if g.tcp[i] != 0 {
		list = append(list, join(transport(unix.IPPROTO_TCP), take(g.tcp[i])))
	}
	if g.udp[i] != 0 {
		list = append(list, join(transport(unix.IPPROTO_UDP), take(g.udp[i])))
	}
	// TCP and UDP come here when nobody listens any more, and before there was a listener.
	return append(list,
		join(transport(unix.IPPROTO_TCP), drop()), join(transport(unix.IPPROTO_UDP), drop()),
		dropAs(g.group, DropProtocol))
}

// tproxyTo gives the packet to the socket of its own connection, or else to the listener on the loopback address.
func tproxyTo(f family, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: loopback(f).AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.TProxy{Family: byte(f.table), TableFamily: byte(f.table), RegAddr: 1, RegPort: 2},
	}
}

// loopback is where the listeners are: no packet from outside can be for them.
func loopback(f family) netip.Addr {
	if f.len == 4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func everything(ipv6 bool) netip.Prefix {
	if ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// mark compares the mark in the bits of mask.
func mark(op expr.CmpOp, mask, value uint32) []expr.Any {
	return join([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}}, masked(op, mask, value))
}

func ctMark(op expr.CmpOp, mask, value uint32) []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}}, masked(op, mask, value))
}

func masked(op expr.CmpOp, mask, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

// setMark sets the bits of mask and leaves those of others.
func setMark(mask, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^mask), Xor: binaryutil.NativeEndian.PutUint32(value)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

func setCtMark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1},
	}
}

// Of linux/netfilter/nf_conntrack_tuple_common.h.
const (
	directionOriginal = 0
	directionReply    = 1
)

func isReply() []expr.Any    { return direction(directionReply) }
func isOriginal() []expr.Any { return direction(directionOriginal) }

// answeredBy matches what belongs to a connection whose answers come from the address. An ICMP error belongs to the connection
// that it quotes, which may be anybody's.
func answeredBy(a netip.Addr) []expr.Any {
	const direction = directionReply << 24 // the library writes four octets, of which the kernel reads the first
	return []expr.Any{&expr.Ct{Key: expr.CtKeySRC, Register: 1, Direction: direction}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()}}
}

func direction(d byte) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{d}}}
}
