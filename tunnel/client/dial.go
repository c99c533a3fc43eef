package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tunnel"
)

// Times of a TCP flow. A connection that the edge sets no deadline for has dialFor to be made; one that is silent is probed
// after keepAliveIdle, and given up after keepAliveCount probes.
const (
	dialFor           = 15 * time.Second
	keepAliveIdle     = 30 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 6
)

// Resolver is this machine's own resolver (package localdns).
type Resolver interface {
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// HandlerConfig is what a [Handler] is made from.
type HandlerConfig struct {
	Policy *Policy    // required
	Names  Resolver   // nil: names are not answered, and rules for names let nothing pass
	Sink   event.Sink // nil: nothing is recorded
	Client string     // SPACE/NAME of this client, for the records
	Limits Limits

	// Ask puts a question to the user; an error is no answer, and a no. It is called for one question at a time. nil: nobody is
	// asked. Remember keeps a rule for good, for those whom the user answers [Always].
	Ask      func(context.Context, Prompt) (Answer, error)
	Remember func(app, rule string) error
}

// Handler does what the edge asks for, as far as the user's list lets it. It implements [tunnel.Handler], for any number of
// sessions.
type Handler struct {
	policy   *Policy
	names    Resolver
	told     book
	limits   *limiter
	scans    *scans
	evidence *evidence
	asker    *asker // nil when nobody is asked
	flows    flows
	park     *park
	paused   pause

	// here asks the kernel whether packets to an address end at this machine.
	here func(netip.Addr) bool
}

var _ tunnel.Handler = (*Handler)(nil)

// NewHandler returns a handler.
func NewHandler(c HandlerConfig) *Handler {
	h := &Handler{policy: c.Policy, names: c.Names, told: book{c.Sink, c.Client}, limits: newLimiter(c.Limits), scans: newScans(),
		evidence: newEvidence(), flows: flows{open: map[uint64]*flow{}}, park: newPark(), here: leadsHere}
	if c.Ask != nil {
		h.asker = newAsker(c.Ask, c.Remember, c.Policy)
	}
	return h
}

// Close ends all flows and questions.
func (h *Handler) Close() error {
	h.paused.set(true)
	if h.asker != nil {
		h.asker.close()
	}
	h.KillAll()
	return nil
}

// Dial implements [tunnel.Handler].
func (h *Handler) Dial(ctx context.Context, o tunnel.Open) (net.Conn, error) {
	o.Addr = netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port())
	if !wellFormed(o) {
		h.told.judged(o, finding{reason: policy.ReasonMalformed, rule: "builtin:default"})
		return nil, tunnel.Errorf(tunnel.Malformed, "no destination")
	}
	if err := h.stopped(o); err != nil {
		h.told.judged(o, finding{reason: reasonPaused, rule: "builtin:paused"})
		return nil, err
	}
	dialled, err := h.limits.begin()
	if err != nil {
		h.told.judged(o, finding{reason: reasonLimit, rule: "builtin:limit"})
		return nil, err
	}
	defer dialled()
	found := h.judge(ctx, o)
	if found, err = h.asked(ctx, o, found); err != nil {
		h.told.judged(o, found)
		return nil, err
	}
	if found.verdict == policy.Deny {
		h.told.judged(o, found)
		h.missed(o)
		return nil, denied(found.reason)
	}
	return h.connect(ctx, o, found)
}

// wellFormed reports whether there is anything to judge.
func wellFormed(o tunnel.Open) bool {
	return (o.Network == "tcp" || o.Network == "udp") && o.Addr.IsValid() && o.Addr.Port() != 0 && o.Addr.Addr().Zone() == ""
}

// stopped says why nothing is dialled now, if so.
func (h *Handler) stopped(o tunnel.Open) error {
	if h.paused.is() {
		h.paused.refused.Add(1)
		return tunnel.Errorf(tunnel.Limit, "paused by the user")
	}
	if left := h.scans.paused(o.App); left > 0 {
		return tunnel.Errorf(tunnel.Denied, "the app looked for open ports and is paused for %s", left.Round(time.Second))
	}
	return nil
}

// asked asks the user about a flow that no rule is about.
func (h *Handler) asked(ctx context.Context, o tunnel.Open, f finding) (finding, error) {
	if f.verdict != policy.Deny || h.asker == nil || !open(f.reason) {
		return f, nil
	}
	answer, err := h.asker.may(ctx, promptFor(o, f))
	if answer == Refuse {
		f.reason = reasonAsked
		return f, err
	}
	if answer != Once {
		if again := h.judge(ctx, o); again.verdict == policy.Allow {
			return again, nil // by the rule that the answer has made
		}
	}
	f.verdict, f.reason, f.rule = policy.Allow, "", ruleAsked
	return f, nil
}

// open reports whether a denial for this reason is one that the user may be asked about: guards and denies stand.
func open(reason string) bool {
	switch reason {
	case policy.ReasonDefault, policy.ReasonPort, policy.ReasonPrivate, policy.ReasonNoEvidence, policy.ReasonAmbiguousName, policy.ReasonDNSBlocked:
		return true
	}
	return false
}

// missed notes a flow that came to nothing, and pauses who has too many of them.
func (h *Handler) missed(o tunnel.Open) {
	if who := h.scans.missed(o.App, o.Network, o.Addr); who != "" {
		h.told.alert(o.Owner, "port-scan", fmt.Sprintf("%s: %d destinations refused or denied within %s: paused for %s", who, scanTargets, scanWindow, scanPause))
	}
}

// connect makes the socket of a flow that may pass.
func (h *Handler) connect(ctx context.Context, o tunnel.Open, found finding) (net.Conn, error) {
	if o.Network == "udp" {
		if s := h.park.take((&flow{open: o}).key()); s != nil && !s.closed.Load() {
			return s.hold(), nil
		}
	}
	if err := h.limits.open(o.Addr.Addr()); err != nil {
		h.told.judged(o, finding{reason: reasonLimit, rule: "builtin:limit", name: found.name, names: found.names})
		return nil, err
	}
	h.told.judged(o, found)
	f := h.flows.add(h, o, found)
	c, err := h.dial(ctx, o, found)
	if err != nil {
		var own *tunnel.Error
		code := tunnel.CodeOf(err)
		f.end(closeOf(code), err)
		if code == tunnel.Refused || code == tunnel.Denied {
			h.missed(o)
		}
		if errors.As(err, &own) {
			return nil, own
		}
		return nil, tunnel.Errorf(code, "") // the text of the system's error has addresses of this machine
	}
	return h.carry(f, c)
}

// dial connects a socket to exactly the address that was judged.
func (h *Handler) dial(ctx context.Context, o tunnel.Open, found finding) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         dialFor,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check destination: %w", err)
			}
			return h.recheck(o, found, addr)
		},
	}
	c, err := d.DialContext(ctx, o.Network, o.Addr.String())
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return c, nil
}

// carry puts the books of the flow around its socket.
func (h *Handler) carry(f *flow, c net.Conn) (net.Conn, error) {
	switch c := c.(type) {
	case *net.TCPConn:
		s := &stream{TCPConn: c, flow: f}
		f.connected(s.fail, nil)
		return s, nil
	case *net.UDPConn:
		s := newSocket(c, f, h.park)
		d := s.hold()
		f.connected(s.fail, func() bool { return s.holder.Load() == nil })
		return d, nil
	}
	f.end("error", nil)
	return nil, errors.Join(tunnel.Errorf(tunnel.Internal, "no such socket"), c.Close())
}
