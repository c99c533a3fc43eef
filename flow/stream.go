package flow

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
	"github.com/weir-dev/weir/internal/relay"
)

// sent says that the flow has nothing left to send, for [Gate.Drain].
func (f *visit) sent() {
	if f.mayHaveSent {
		f.mayHaveSent = false
		f.sending.Add(-1)
	}
}

// opening is a flow that was let through, up to its first byte; without a relay it came to its end.
type opening struct {
	relay  *relay.Relay
	upward relay.Options
	held   *held
}

// openStream decides and dials. Where the address is permitted already the upstream is dialled before the handshake ends,
// so that refused is refused, and its bytes flow at once; the client's bytes leave only once the claim is judged. Where
// only a claim can permit the flow, nothing is dialled before it did.
func (f *visit) openStream(ctx context.Context) opening {
	d := f.routed(f.judge(sniff.Hint{}, false))
	if d.Verdict == policy.Deny && !d.AskName {
		f.refuse(d)
		return opening{}
	}
	var upstream net.Conn
	if d.Verdict != policy.Deny {
		var err error
		if upstream, err = f.dial(ctx); err != nil {
			f.failed(ctx, err)
			return opening{}
		}
	}
	f.awaitOwner(acceptOwnerWait) // as long as the program waits for the handshake it is there to be found
	f.mayHaveSent = true          // from the moment that it sees the handshake
	f.sending.Add(1)
	client, err := f.Accept()
	if err != nil {
		f.abandoned(ctx, upstream, err)
		return opening{}
	}
	if f.isDNS() && f.DNS != nil && upstream != nil {
		f.sent() // whoever has ended needs no answer
		f.watchDNS(ctx, client, upstream)
		return opening{}
	}
	return f.judgeStream(ctx, client, upstream)
}

// judgeStream holds the client's first bytes and judges what they claim.
func (f *visit) judgeStream(ctx context.Context, client, upstream net.Conn) opening {
	var r *relay.Relay
	if upstream != nil {
		r = relay.New(ctx, client, upstream)
		r.Start()
	}
	h := holdStream(client, positive(f.Gate.Hold, DefaultHold), &f.holding)
	d := f.routed(f.confirm(ctx, h.hint))
	if errors.Is(h.err, errHeld) {
		d = policy.Decision{Verdict: policy.Deny, Reason: "limit", Rule: "builtin:held-bytes"}
		f.decision = d
	}
	if d.Verdict == policy.Deny {
		h.release()
		f.turnAway(client, r)
		return opening{}
	}
	if r == nil {
		upstream, err := f.dial(ctx)
		if err != nil {
			h.release()
			f.failed(ctx, err)
			client.Close()
			return opening{}
		}
		r = relay.New(ctx, client, upstream)
		r.Start()
	}
	opts, ok := f.upward(ctx, h)
	if !ok {
		h.release()
		f.turnAway(client, r)
		return opening{}
	}
	h.stream = nil
	f.record()
	return opening{relay: r, upward: opts, held: h}
}

// upward says how the client's bytes begin: with the held ones, and where names decide under watch for a later hello. It
// is not ok when the held bytes have such a hello in them already and it is denied.
func (f *visit) upward(ctx context.Context, h *held) (opts relay.Options, ok bool) {
	opts.FirstUp, opts.FirstUpDone = h.bytes, h.release
	if f.settled {
		return opts, true
	}
	later := &later{visit: f, ctx: ctx}
	seen := h.bytes // what the watch has to see of the held bytes: those that no sniffer took for a claim
	if h.status == sniff.Done {
		seen = h.bytes[len(h.bytes)-h.stream.Behind():]
	}
	err := later.see(seen)
	if h.status == sniff.More { // the hold ended in the middle of a claim, which goes on
		later.stream = h.stream
	}
	if err == nil {
		opts.WatchUp = later.look
	}
	return opts, !errors.Is(err, errPolicy)
}

// turnAway ends a flow that was accepted and then denied: not one held byte has left.
func (f *visit) turnAway(client net.Conn, r *relay.Relay) {
	f.record()
	f.Reject(Denied)
	if r != nil {
		r.Reset(relay.Policy)
		r.Wait()
	}
	client.Close()
}

// failed ends a flow whose upstream could not be reached, in the way the upstream failed.
func (f *visit) failed(ctx context.Context, err error) {
	if f.declined(err) {
		return
	}
	cause := closeOf(ctx, err) // before the program is told: it may end of it, and ctx with it
	f.record()
	f.Reject(refusal(err))
	f.recordClose(0, 0, cause, err)
}

// declined ends a flow that was not even tried, because the gate or the route has no place for it, and reports whether err
// says so.
func (f *visit) declined(err error) bool {
	d := policy.Decision{Verdict: policy.Deny, Reason: "limit", Rule: "builtin:dials"}
	var by *Declined
	switch {
	case errors.As(err, &by):
		d.Reason, d.Rule = by.Reason, by.Rule
	case !errors.Is(err, errDials):
		return false
	}
	f.refuse(d)
	return true
}

// abandoned ends a flow whose client gave up while we dialled.
func (f *visit) abandoned(ctx context.Context, upstream net.Conn, err error) {
	if upstream != nil {
		upstream.Close()
	}
	f.record()
	f.recordClose(0, 0, closeOf(ctx, err), err)
}

func (f *visit) ended(ctx context.Context, s relay.Stats) {
	err := s.Up
	if err == nil {
		err = s.Down
	}
	cause := string(s.Cause)
	if s.Cause == relay.Error || ctx.Err() != nil && s.Cause != relay.Fin && s.Cause != relay.Policy {
		cause = closeOf(ctx, err)
	}
	f.recordClose(s.Sent, s.Received, cause, err)
}

// watchDNS carries questions to a DNS server that the program chose.
func (f *visit) watchDNS(ctx context.Context, client, upstream net.Conn) {
	defer client.Close()
	defer upstream.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); upstream.Close() })
	defer stop()
	if d := f.routed(f.judge(sniff.Hint{}, true)); d.Verdict == policy.Deny {
		f.refuse(d)
		return
	}
	f.record()
	up, down, err := f.DNS(ctx, f.dnsServer(), client, upstream)
	f.recordClose(up, down, closeOf(ctx, err), err)
}

func (f *visit) dnsServer() DNSServer {
	return DNSServer{Network: f.Network, Addr: f.dst, Route: f.dialed, By: f.by}
}

// late judges a claim that came after the flow was judged.
func (f *visit) late(ctx context.Context, hint sniff.Hint) policy.Decision {
	before, asked, first := f.decision, f.asked, f.hint
	d := f.routed(f.confirm(ctx, hint))
	if d.Verdict != policy.Deny {
		f.decision, f.asked, f.hint = before, asked, first
	}
	return d
}

// later looks on while the client's bytes pass, for a ClientHello that comes after plaintext (STARTTLS, SSLRequest), the
// second one after a HelloRetryRequest, or a claim whose beginning came before the hold ran out.
type later struct {
	*visit
	ctx    context.Context
	stream *sniff.Stream // nil once it has nothing more to say
	watch  sniff.Watch
}

// look is shown each chunk before it leaves. The last octets of a hello that is denied never do.
func (l *later) look(b []byte) error {
	if l.stream != nil {
		hint, status := l.stream.Feed(b)
		if status != sniff.More {
			l.stream = nil
		}
		if (status == sniff.Done || hint.MayWait) && l.late(l.ctx, hint).Verdict == policy.Deny {
			return errPolicy
		}
	}
	return l.see(b)
}

func (l *later) see(b []byte) error {
	hint, status := l.watch.Feed(b)
	switch {
	case (status == sniff.Done || hint.MayWait) && l.late(l.ctx, hint).Verdict == policy.Deny:
		return errPolicy
	case status == sniff.Unknown && l.stream == nil:
		return relay.ErrDoneWatching
	}
	return nil
}

// held is what the client said first.
type held struct {
	bytes  []byte
	buf    *[]byte
	hint   sniff.Hint
	status sniff.Status
	stream *sniff.Stream // nil once the flow is judged and nothing is left to see
	err    error         // what ended the reading, if not the claim

	// taken are the octets of the gate's budget that this one holds.
	taken  int64
	budget *atomic.Int64
}

// maxHeldBytes bounds what one sandbox's flows may have held at one time beyond their first buffers, in octets: first bytes
// that are larger than any ordinary hello, many times over.
const maxHeldBytes = 16 << 20

// errHeld ends the reading of first bytes when the budget for them is spent.
var errHeld = errors.New("too many bytes are held")

// grow takes n more octets of the budget, twice: the sniffer keeps them too.
func (h *held) grow(n int) bool {
	h.taken += 2 * int64(n)
	return h.budget.Add(2*int64(n)) <= maxHeldBytes
}

// heldStart is the first size of a buffer for held bytes: a ClientHello with post-quantum key share fits.
const heldStart = 4 << 10

var heldBuffers = sync.Pool{New: func() any { b := make([]byte, 0, heldStart); return &b }}

// holdStream reads the client's first bytes until they show what they claim, the client ends its stream, or the time is
// up. It never takes bytes it would not hold.
func holdStream(client net.Conn, wait time.Duration, budget *atomic.Int64) *held {
	h := &held{buf: heldBuffers.Get().(*[]byte), budget: budget, stream: new(sniff.Stream)}
	b := (*h.buf)[:0]
	client.SetReadDeadline(time.Now().Add(wait))
	for h.status == sniff.More && h.err == nil {
		if len(b) == cap(b) {
			if !h.grow(cap(b)) {
				h.err = errHeld
				break
			}
			b = append(b, make([]byte, cap(b))...)[:len(b)]
		}
		var n int
		n, h.err = client.Read(b[len(b):cap(b)])
		if n > 0 {
			h.hint, h.status = h.stream.Feed(b[len(b) : len(b)+n])
			b = b[:len(b)+n]
		}
		if h.hint.MayWait {
			break
		}
	}
	client.SetReadDeadline(time.Time{})
	if errors.Is(h.err, os.ErrDeadlineExceeded) {
		h.err = nil
	}
	if h.status != sniff.Done && !h.hint.MayWait {
		h.hint = sniff.Hint{} // an unfinished claim is none
	}
	if errors.Is(h.err, io.EOF) {
		h.status = sniff.Unknown // nothing more will come that could finish it
	}
	h.bytes, *h.buf = b, b
	return h
}

// release gives the buffer back: an idle flow must not keep it. bytes must not be used after; later calls do nothing.
func (h *held) release() {
	if h.buf != nil && cap(*h.buf) <= 4*heldStart {
		heldBuffers.Put(h.buf)
	}
	h.buf, h.bytes = nil, nil
	h.budget.Add(-h.taken)
	h.taken = 0
}
