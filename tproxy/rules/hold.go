//go:build linux

package rules

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Holding a SYN: before the rules of the door a chain of its own gives every SYN to a queue, where it waits for a verdict
// of the data path. With that, a destination that refuses can refuse the SYN itself. Kernels have one of two ways to say it,
// or none; without it TPROXY finishes the handshake first.

// holdPriority is before the door's chain (mangle, -150).
const holdPriority = nftables.ChainPriority(-160)

// holdLines are the ways to give a packet to the queue. The one by nft_compat comes first, because more kernels have it and a
// transaction that is refused costs ten milliseconds.
func (c Inside) holdLines() [][]expr.Any {
	info := make(xt.Unknown, 6) // struct xt_NFQ_info_v3: number, how many, flags
	binary.NativeEndian.PutUint16(info[0:], c.Queue)
	binary.NativeEndian.PutUint16(info[2:], 1)
	return [][]expr.Any{
		{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}},
		{&expr.Queue{Num: c.Queue, Total: 1}},
	}
}

// hold adds that chain by the first way that the kernel knows, and reports whether it knows one.
func (c Inside) hold() (bool, error) {
	for _, line := range c.holdLines() {
		conn, err := c.nftables()
		if err != nil {
			return false, fmt.Errorf("open nftables: %w", err)
		}
		policy := nftables.ChainPolicyAccept
		for _, f := range c.families() {
			table := conn.AddTable(&nftables.Table{Family: f.table, Name: "weir"})
			prio := holdPriority
			chain := conn.AddChain(&nftables.Chain{
				Name: "hold", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookPrerouting, Priority: &prio, Policy: &policy,
			})
			for _, exprs := range c.holdRules(f, line) {
				conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
			}
		}
		err = conn.Flush()
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return false, fmt.Errorf("add rules that hold: %w", err)
		}
	}
	return false, nil
}

// holdRules leave alone what the door's chain does not carry, and hold the SYNs of the rest.
func (c Inside) holdRules(f family, line []expr.Any) [][]expr.Any {
	list := [][]expr.Any{
		join(f.address(f.dst, expr.CmpOpEq, f.loopback), accept()),
		join(f.address(f.dst, expr.CmpOpEq, whole(f.own)), accept()),
		join(f.address(f.src, expr.CmpOpNeq, whole(f.own)), accept()),
		join(transport(unix.IPPROTO_TCP), f.address(f.dst, expr.CmpOpEq, whole(f.gateway)), port(dnsPort), accept()),
	}
	return append(list, join(transport(unix.IPPROTO_TCP), syn(), line))
}

// syn matches the first segment of a connection: SYN without ACK.
func syn() []expr.Any {
	const flags, synFlag, ackFlag = 13, 0x02, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synFlag | ackFlag}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{synFlag}},
	}
}

// Of linux/netfilter/nfnetlink_queue.h.
const (
	nfnlSubsysQueue = 3
	nfqnlMsgConfig  = 2
	nfqaCfgCmd      = 1
	nfqaCfgParams   = 2
	nfqaCfgMaxLen   = 3
	nfqnlCfgCmdBind = 1
	nfqnlCopyPacket = 2
)

// HeldMax is how many SYNs the kernel holds for the data path; it drops those beyond without a word. So it is more than the
// door lets wait (flow.DefaultHalfOpen), which counts what it drops.
const HeldMax = 4096

// queueBuffer is what the queue's socket may hold of SYNs that the data path has not read yet, in octets.
const queueBuffer = 8 << 20

// heldBytes is how much of a SYN the data path sees: the headers.
const heldBytes = 128

// listenQueue binds a socket to the queue. Packets for a queue that nobody is bound to are dropped.
func (c Inside) listenQueue() (int, error) {
	params := binary.BigEndian.AppendUint32(nil, heldBytes)
	params = append(params, nfqnlCopyPacket)
	return netfilterSocket(queueBuffer, [][]byte{
		message(nfnlSubsysQueue<<8|nfqnlMsgConfig, c.Queue, nfqaCfgCmd, []byte{nfqnlCfgCmdBind, 0, 0, 0}),
		message(nfnlSubsysQueue<<8|nfqnlMsgConfig, c.Queue, nfqaCfgParams, params),
		message(nfnlSubsysQueue<<8|nfqnlMsgConfig, c.Queue, nfqaCfgMaxLen, binary.BigEndian.AppendUint32(nil, HeldMax)),
	})
}
