package flow

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
	"github.com/weir-dev/weir/internal/batch"
	"github.com/weir-dev/weir/internal/relay"
)

// maxDatagram is the largest payload of a UDP datagram over IPv4 or IPv6 without jumbograms.
const maxDatagram = 65535

var datagramBuffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// datagrams carries a UDP flow or a series of echo messages. There is no handshake to hold, so the upstream is opened
// only when the flow is judged.
func (f *visit) datagrams(ctx context.Context) {
	d := f.routed(f.judge(sniff.Hint{}, false))
	if d.Verdict == policy.Deny && !d.AskName {
		f.refuse(d)
		return
	}
	client, err := f.Accept()
	if err != nil {
		if d.Verdict != policy.Deny { // it would have been carried, and is on record as what was not
			f.abandoned(ctx, nil, err)
		}
		return
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	f.mayHaveSent = true // a program that ends after its only datagram has sent it all the same
	f.sending.Add(1)
	defer f.sent()

	var quic sniff.QUIC
	first, hint := f.holdDatagrams(client, &quic)
	d = f.routed(f.confirm(ctx, hint))
	if len(first) > 0 && d.Verdict == policy.Allow && (f.foreign(first[0]) || !f.settled && headless(f.Network, f.dst, first[0]) && !f.quic.known(f.dst)) {
		d.Verdict, d.Reason = policy.Deny, policy.ReasonNoEvidence
		if f.Policy.Mode() == policy.ModeAudit {
			d.Verdict = policy.WouldDeny
		}
		f.decision = d
	}
	if d.Verdict == policy.Deny {
		f.refuse(d)
		return
	}
	if hint.Protocol == sniff.ProtocolQUIC && hint.Host != "" {
		f.quic.learn(f.dst)
	}
	upstream, err := f.dial(ctx)
	if err != nil {
		f.failed(ctx, err)
		return
	}
	f.record()
	defer upstream.Close()
	f.carryDatagrams(ctx, client, &upward{visit: f, ctx: ctx, to: upstream, quic: &quic}, first)
}

// holdDatagrams reads until the claim is known or there will be none, and returns what was read. Only QUIC and DTLS make
// it wait for more than one datagram.
func (f *visit) holdDatagrams(client net.Conn, quic *sniff.QUIC) ([][]byte, sniff.Hint) {
	if f.Network != "udp" || f.isDNS() {
		return nil, sniff.Hint{}
	}
	client.SetReadDeadline(time.Now().Add(positive(f.Hold, DefaultHold)))
	defer client.SetReadDeadline(time.Time{})
	buf := datagramBuffers.Get().(*[maxDatagram]byte)
	defer datagramBuffers.Put(buf)
	var held [][]byte
	for {
		n, err := client.Read(buf[:])
		if err != nil && len(held) > 0 {
			return held, sniff.Hint{Protocol: sniff.ProtocolQUIC, Malformed: unfinished}
		}
		if err != nil {
			return nil, sniff.Hint{}
		}
		held = append(held, append([]byte(nil), buf[:n]...))
		hint, status := quic.Feed(buf[:n])
		if status == sniff.Unknown && len(held) == 1 {
			hint, _ = sniff.Datagram(buf[:n])
		}
		if status != sniff.More || len(held) == sniff.MaxDatagrams {
			return held, hint
		}
	}
}

// unfinished is what is wrong with a hello whose end does not come.
const unfinished = "a hello that does not end"

// carryDatagrams relays until the client's end is idle or closed, or the upstream says that nobody listens.
func (f *visit) carryDatagrams(ctx context.Context, client net.Conn, u *upward, first [][]byte) {
	upstream := u.to
	if f.isDNS() && f.DNS != nil {
		f.sent() // whoever has ended needs no answer
		up, down, err := f.DNS(ctx, f.dnsServer(), client, upstream)
		f.recordClose(up, down, closeOf(ctx, err), err)
		return
	}
	u.batches = f.batchesOf(upstream)
	if l, ok := upstream.(Limited); ok {
		if door, ok := client.(Limiter); ok {
			door.LimitDatagrams(l.MaxDatagram)
		}
	}
	var down int64
	var downErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		down, downErr = copyDown(client, u)
		if unreachable(downErr) {
			f.Reject(refusal(downErr))
		}
		client.Close()
	}()
	err := u.writeFirst(first)
	f.sent()
	if err == nil {
		err = copyUp(u, client)
	}
	if errors.Is(err, errPolicy) || unreachable(err) {
		f.Reject(refusal(err))
	}
	upstream.Close()
	<-done
	if unreachable(downErr) || relay.IsLost(downErr) {
		err = downErr // the client's end was closed because of it
	}
	f.recordClose(u.sent, down, closeOf(ctx, err), err)
}

// batchesOf returns how datagrams pass in batches to and from the upstream, nil where they cannot.
func (g *Gate) batchesOf(upstream net.Conn) BatchUpstream {
	if b, ok := upstream.(BatchUpstream); ok {
		return b
	}
	if s, err := batch.NewSocket(upstream, &g.datagramStats); err == nil {
		return s
	}
	return nil
}

// copyUp has the client's datagrams sent by u until an end is reached.
func copyUp(u *upward, client net.Conn) error {
	if c, ok := client.(BatchConn); ok {
		return c.Forward(u)
	}
	_, err := copyDatagrams(u, client)
	return err
}

// copyDown sends the client what the upstream of u receives, and returns how many octets.
func copyDown(client net.Conn, u *upward) (int64, error) {
	c, ok := client.(BatchConn)
	if !ok || u.batches == nil {
		return copyDatagrams(client, u.to)
	}
	var total int64
	err := u.batches.Receive(func(datagrams [][]byte) error {
		n, err := c.WriteBatch(datagrams)
		total += n
		return err
	})
	return total, err
}

// copyDatagrams copies one datagram per Write until an end is reached; connections that can hand over their datagrams
// without a buffer of ours do so, which keeps idle flows small.
func copyDatagrams(to io.Writer, from net.Conn) (int64, error) {
	if w, ok := from.(io.WriterTo); ok {
		return w.WriteTo(to)
	}
	if raw, ok := from.(syscall.Conn); ok {
		return copyFromSocket(to, raw)
	}
	buf := make([]byte, maxDatagram)
	var total int64
	for {
		n, err := from.Read(buf)
		if err != nil {
			return total, err
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return total, err
		}
		total += int64(n)
	}
}

// copyFromSocket is copyDatagrams for a socket of the host: a buffer is taken only once there is something to read.
func copyFromSocket(to io.Writer, from syscall.Conn) (int64, error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		var copyErr error
		err := raw.Read(func(fd uintptr) bool {
			buf := datagramBuffers.Get().(*[maxDatagram]byte)
			defer datagramBuffers.Put(buf)
			for range 64 {
				n, _, err := syscall.Recvfrom(int(fd), buf[:], syscall.MSG_DONTWAIT)
				switch {
				case err == syscall.EAGAIN:
					return false
				case err == syscall.EINTR:
					continue
				case err != nil:
					copyErr = os.NewSyscallError("recv", err)
					return true
				}
				if _, copyErr = to.Write(buf[:n]); copyErr != nil {
					return true
				}
				total += int64(n)
			}
			return true
		})
		if err == nil {
			err = copyErr
		}
		if err != nil {
			return total, err
		}
	}
}

// isDNS reports whether the flow goes to the port of plain DNS.
func (f *visit) isDNS() bool { return f.dst.Port() == 53 && f.Network != "icmp" }

func unreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.EACCES) // the tunnel's client does not allow it, or does not any more
}

// headless reports whether a flow begins with a QUIC packet that has no Initial before it (a short header, RFC 9000
// section 17.3): a connection that moved here from another tuple, and whose name cannot be read.
func headless(network string, dst netip.AddrPort, b []byte) bool {
	return network == "udp" && dst.Port() == 443 && len(b) > 0 && b[0]&0xc0 == 0x40
}

// foreign reports whether a datagram begins a QUIC connection of a version that we cannot read. Where names decide none is
// let through: a server that speaks the version would see a name that nobody judged.
func (f *visit) foreign(b []byte) bool {
	return !f.settled && f.Network == "udp" && f.dst.Port() == 443 && sniff.IsForeign(b)
}

// maxVerdicts bounds how many QUIC destinations are remembered.
const maxVerdicts = 1024

// verdicts remembers the destinations to which a QUIC connection with an allowed name was opened, so that the connection
// may go on from another port of the sandbox.
type verdicts struct {
	mu      sync.Mutex
	allowed map[netip.AddrPort]struct{}
}

func (v *verdicts) learn(dst netip.AddrPort) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.allowed == nil || len(v.allowed) >= maxVerdicts {
		v.allowed = make(map[netip.AddrPort]struct{})
	}
	v.allowed[dst] = struct{}{}
}

func (v *verdicts) known(dst netip.AddrPort) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.allowed[dst]
	return ok
}
