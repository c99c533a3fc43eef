package flow

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
)

// upward is the way out of a datagram flow. It looks at every QUIC Initial once more: a new connection on the same tuple
// is judged by its own name before it leaves.
type upward struct {
	*visit
	ctx context.Context
	to  net.Conn

	// batches is to, where that takes and gives many datagrams at a time; else nil.
	batches BatchUpstream

	sent int64

	quic *sniff.QUIC
	held [][]byte
}

// errPolicy ends a flow whose later bytes claimed a name that is not allowed.
var errPolicy = errors.New("denied by policy")

func (u *upward) Write(b []byte) (int, error) {
	if _, initial := sniff.IsInitial(b); initial && u.Network == "udp" && !u.settled {
		return len(b), u.reopen(b)
	}
	return len(b), u.pass(b)
}

// writeFirst sends what was held while the claim was read. Initials were judged with it; what came between them was not.
func (u *upward) writeFirst(held [][]byte) error {
	for i, b := range held {
		write := u.pass
		if _, initial := sniff.IsInitial(b); initial || i == 0 {
			write = func(b []byte) error { return u.writeAll([][]byte{b}) }
		}
		if err := write(b); err != nil {
			return err
		}
	}
	return nil
}

// pass sends a datagram that is no Initial: unless it is of a version that we cannot read, which a server that does not
// speak it would drop, too, or has a DTLS hello that is denied.
func (u *upward) pass(b []byte) error {
	if u.foreign(b) && u.Policy.Mode() != policy.ModeAudit {
		return nil
	}
	if u.Network == "udp" && !u.settled {
		hint, _ := sniff.Datagram(b)
		if hint.Protocol == sniff.ProtocolDTLS && u.late(u.ctx, hint).Verdict == policy.Deny {
			return errPolicy
		}
	}
	return u.writeAll([][]byte{b})
}

// reopen takes an Initial that came after the flow was judged. Those of the running connection pass. One that begins a
// connection is held until its claim is known and judged; one that nobody can open is dropped, since no server can either.
func (u *upward) reopen(b []byte) error {
	hint, status, fresh := u.quic.Next(b)
	if !fresh {
		return u.writeAll([][]byte{b})
	}
	if status == sniff.Unknown {
		return nil
	}
	u.held = append(u.held, append([]byte(nil), b...))
	if status == sniff.More && len(u.held) < sniff.MaxDatagrams {
		return nil
	}
	if status == sniff.More {
		hint.Malformed = unfinished
	}
	held := u.held
	u.held = nil
	if d := u.late(u.ctx, hint); d.Verdict == policy.Deny {
		return errPolicy
	}
	return u.writeAll(held)
}

// writeAll sends what was judged. The network drops what does not fit; the flow goes on.
func (u *upward) writeAll(datagrams [][]byte) error {
	if u.batches != nil {
		_, sent, err := u.batches.Send(datagrams, true)
		u.sent += sent
		return err
	}
	for _, b := range datagrams {
		n, err := u.to.Write(b)
		if errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ENOBUFS) {
			continue
		}
		if err != nil {
			return err
		}
		u.sent += int64(n)
	}
	return nil
}

// TryBatch implements BatchSink: it takes those at the front that need no second look.
func (u *upward) TryBatch(datagrams [][]byte) (int, error) {
	plain := u.plain(datagrams)
	if u.batches == nil || plain == 0 {
		return 0, nil
	}
	n, sent, err := u.batches.Send(datagrams[:plain], false)
	u.sent += sent
	return n, err
}

// WriteBatch implements BatchSink.
func (u *upward) WriteBatch(datagrams [][]byte) error {
	for len(datagrams) > 0 {
		n := u.plain(datagrams)
		if n > 0 {
			if err := u.writeAll(datagrams[:n]); err != nil {
				return err
			}
		} else {
			if _, err := u.Write(datagrams[0]); err != nil {
				return err
			}
			n = 1
		}
		datagrams = datagrams[n:]
	}
	return nil
}

// plain is how many of the first datagrams have nothing that Write would judge: the verdict on the flow covers them.
func (u *upward) plain(datagrams [][]byte) int {
	if u.settled || u.Network != "udp" {
		return len(datagrams)
	}
	for i, b := range datagrams {
		if !sniff.MayOpen(b) {
			continue
		}
		// Media and the later packets of a handshake have such a first octet, too.
		if _, initial := sniff.IsInitial(b); initial || b[0]&0x80 == 0 || u.foreign(b) {
			return i
		}
	}
	return len(datagrams)
}
