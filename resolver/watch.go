package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

// Bounds of a watched flow.
const (
	watchIdle       = 120 * time.Second // a UDP flow without a datagram for so long is over
	watchUnanswered = 30 * time.Second  // the same before the first answer
	watchHold       = 3 * time.Second   // in audit, bytes that do not become a message are held for no longer
	maxPending      = 256               // questions of one flow that wait for their answers
)

// ErrNotDNS ends a watched flow that carries something else than DNS questions while a policy is enforced.
var ErrNotDNS = errors.New("not a dns question on a dns port")

// errFinished ends both directions of a flow when one side of a datagram flow is closed.
var errFinished = errors.New("dns flow finished")

// watch is one flow to a DNS server that the sandbox chose itself.
type watch struct {
	s                *Server
	ctx              context.Context
	server, route    string
	by               string // who carries the flow
	packets          bool   // UDP: one Read is one datagram
	client, upstream net.Conn
	up, down         atomic.Int64
	last             atomic.Int64 // when the last datagram passed, Unix nanoseconds
	answered         atomic.Bool

	mu      sync.Mutex // one writer to client at a time; the fields below
	raw     bool       // audit, and it is not DNS: bytes pass as they come
	held    []byte     // TCP: the beginning of an answer
	pending []pending  // oldest first
}

type pending struct {
	id       uint16
	question dns.Question
	verdict  Verdict
	start    time.Time
}

// Explicit is a flow to a DNS server that the sandbox chose itself.
type Explicit struct {
	Network string         // "udp" takes each Read for one datagram, "tcp" a stream of messages with their lengths before them
	Server  netip.AddrPort // who is asked
	Route   string         // by which
	Client  string         // who carries the flow there, "" for nobody
}

// Watch carries one flow to a DNS server that the sandbox chose itself, such as 8.8.8.8:53, where a rule (or audit) allows
// it. Messages come in any split. Each question is judged like one to the own server: a blocked one is answered here with NXDOMAIN and never sent,
// all others pass byte for byte. Answers pass unchanged and are heard, never learned: they are no evidence. Each question
// is recorded once, when its answer comes or the flow ends.
//
// What is no question ends the flow with [ErrNotDNS] when a policy is enforced and passes in audit. A UDP flow ends with
// [os.ErrDeadlineExceeded] after 120 s without a datagram, 30 s before the first answer; TCP has no limit here. Otherwise err
// is nil when both sides have finished, or says which side failed. Watch also returns when ctx ends. up and down are the
// bytes carried to and from the server. Watch half-closes but does not close: client and upstream stay the caller's, with
// deadlines that have passed.
func (s *Server) Watch(ctx context.Context, to Explicit, client, upstream net.Conn) (up, down int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watch{s: s, ctx: ctx, server: to.Server.String(), route: to.Route, by: to.Client, packets: to.Network == "udp", client: client, upstream: upstream}
	w.last.Store(time.Now().UnixNano())
	defer w.forget()
	unblock := func() {
		client.SetDeadline(time.Unix(1, 0))
		upstream.SetDeadline(time.Unix(1, 0))
	}
	defer unblock()
	defer context.AfterFunc(ctx, unblock)()
	questions, answers := w.upTCP, w.downTCP
	if w.packets {
		questions, answers = w.upUDP, w.downUDP
	}
	var work sync.WaitGroup
	for _, direction := range []func() error{questions, answers} {
		work.Go(func() {
			if err := direction(); err != nil {
				cancel(err)
			}
		})
	}
	work.Wait()
	if err = context.Cause(ctx); errors.Is(err, errFinished) {
		err = nil
	}
	return w.up.Load(), w.down.Load(), err
}

// read has once read from c until the flow is idle, hold (if not 0) is over, or ctx ends. A deadline that another set is an
// error like any.
func (w *watch) read(c net.Conn, hold time.Duration, once func() (int, error)) (int, error) {
	for {
		var deadline time.Time
		switch {
		case w.packets:
			deadline = w.idleAt()
		case hold > 0:
			deadline = time.Now().Add(hold)
		}
		c.SetReadDeadline(deadline)
		if w.ctx.Err() != nil {
			return 0, context.Cause(w.ctx)
		}
		n, err := once()
		if err != nil && w.ctx.Err() != nil {
			return n, context.Cause(w.ctx)
		}
		if w.packets && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(deadline) && w.idleAt().After(deadline) {
			continue // the other direction had a datagram meanwhile
		}
		if w.packets && err == nil {
			w.last.Store(time.Now().UnixNano())
		}
		return n, err
	}
}

func (w *watch) idleAt() time.Time {
	idle := watchUnanswered
	if w.answered.Load() {
		idle = watchIdle
	}
	return time.Unix(0, w.last.Load()).Add(idle)
}

// judge decides one message of the client: forward it, answer it here, or end the flow.
func (w *watch) judge(raw []byte) (answer []byte, err error) {
	q, ok := inspect(raw)
	if !ok {
		return nil, w.notDNS()
	}
	w.s.counters.watched.Add(1)
	name := nameOf(q.Question[0].Name)
	v := Verdict{}
	if v.Rule, v.Reason = w.s.never(name.full); v.Rule == "" {
		v = w.confine(w.s.judge(name, q.Question[0].Qtype))
	}
	start := time.Now()
	if v.Allow {
		v = w.s.charge(name, q, v, extraOf(q, raw))
	} else {
		v = w.s.chargeDenied(v)
	}
	if v.Allow {
		w.expect(pending{q.Id, q.Question[0], v, start})
		return nil, nil
	}
	w.s.counters.watchBlocked.Add(1)
	r := blocked(q)
	if v.Reason == "limit" {
		r = refusedAnswer(q)
	}
	w.s.note(q.Question[0], w.server, w.outcome(r, v), start, false)
	limit := dns.MaxMsgSize
	if w.packets {
		limit = udpSize(q)
	}
	return w.s.pack(q, r, limit), nil
}

// confine keeps a name that is for one route only from the servers of another.
func (w *watch) confine(v Verdict) Verdict {
	if v.Allow && v.Confined && w.s.routeOf(v) != w.route {
		v.Allow, v.WouldDeny, v.Reason = false, false, "dns-blocked"
	}
	return v
}

// outcome is what became of a question on this flow.
func (w *watch) outcome(r *dns.Msg, v Verdict) outcome {
	v.Route = w.route
	return outcome{msg: r, verdict: v, by: w.by}
}

// notDNS records a message that is no question and says whether that is the end.
func (w *watch) notDNS() error {
	w.s.counters.watchMalformed.Add(1)
	q := Query{Server: w.server, Route: w.route, Client: w.by, Verdict: "would-deny", Rule: "builtin:dns", Reason: "malformed"}
	if w.s.Enforce {
		q.Verdict = "deny"
	}
	w.s.record(q)
	if w.s.Enforce {
		return ErrNotDNS
	}
	return nil
}

// expect remembers a question until its answer comes; the oldest is given up when there are too many.
func (w *watch) expect(p pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) >= maxPending {
		w.unanswered(w.pending[0])
		w.pending = slices.Delete(w.pending, 0, 1)
	}
	w.pending = append(w.pending, p)
}

// hear reads along with an answer to a question that was asked. The caller holds mu.
func (w *watch) hear(raw []byte) {
	r := new(dns.Msg)
	if err := r.Unpack(raw); err != nil || !r.Response || len(r.Question) != 1 {
		return
	}
	i := slices.IndexFunc(w.pending, func(p pending) bool {
		return p.id == r.Id && stub.SameQuestion(p.question, r.Question[0])
	})
	if i < 0 {
		return
	}
	p := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	if name := nameOf(p.question.Name); w.s.Memory != nil && !name.odd {
		t := traceAnswer(r.Question[0].Name, r.Answer)
		w.s.Memory.Hear(name.judged, t.chain, t.addrs, t.ttl)
	}
	w.s.note(p.question, w.server, w.outcome(r, p.verdict), p.start, false)
}

// forget records the questions that were never answered.
func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pending {
		w.unanswered(p)
	}
	w.pending = nil
}

func (w *watch) unanswered(p pending) {
	w.s.record(Query{
		Hostname: nameOf(p.question.Name).full, Qtype: typeName(p.question.Qtype), Server: w.server, Route: w.route, Client: w.by,
		Verdict: p.verdict.String(), Rule: p.verdict.Rule, Reason: p.verdict.Reason, Duration: time.Since(p.start),
	})
}

// send writes to the server and counts.
func (w *watch) send(b []byte) error {
	n, err := w.upstream.Write(b)
	w.up.Add(int64(n))
	if err != nil {
		return fmt.Errorf("write to dns server: %w", err)
	}
	return nil
}

// deliver writes the server's bytes to the client and counts. The caller holds mu.
func (w *watch) deliver(b []byte) error {
	n, err := w.client.Write(b)
	w.down.Add(int64(n))
	if err != nil {
		return fmt.Errorf("write to dns client: %w", err)
	}
	return nil
}
