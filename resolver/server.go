package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
)

// Bounds of one [Server].
const (
	DefaultInFlight = 256              // questions at work at one time
	MaxConns        = 64               // TCP connections at one time
	ConnIdle        = 10 * time.Second // a TCP connection without a whole question for so long is closed (RFC 7766 section 6.2.3)
	MaxAnswer       = 10 * time.Second // what an upstream may take before the question is SERVFAIL
	MaxUDP          = 4096             // the largest answer over UDP, whatever the client offers
)

// Upstream asks a resolver that is trusted for evidence: the host's, or the tunnel client's. The question section of the
// answer equals that of q, and both messages are the caller's afterwards. Exchange returns when ctx ends at the latest,
// and may be called from many goroutines.
type Upstream interface {
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// Attributed is an [Upstream] that can say who has answered: the name of a tunnel's client.
type Attributed interface {
	Upstream
	ExchangeBy(ctx context.Context, q *dns.Msg) (answer *dns.Msg, by string, err error)
}

// Unavailable is the error of an [Upstream] that has nobody to ask. The question is answered SERVFAIL and recorded as denied.
type Unavailable struct {
	Reason, Rule string // as in [Verdict]
	Err          error  // why, for people
}

func (u *Unavailable) Error() string { return u.Reason + ": " + u.Err.Error() }

// Unwrap returns Err.
func (u *Unavailable) Unwrap() error { return u.Err }

// Verdict is what the policy says of a name.
type Verdict struct {
	Allow     bool   // the question or answer may pass
	WouldDeny bool   // it passes only because nothing is enforced
	Rule      string // FILE:LINE, flag:N or builtin:NAME
	Reason    string // a reason of the event log, "" when nothing is to be said

	Route    string // by which to ask, whose evidence the answer is; "" is the Server's
	Confined bool   // a server of the sandbox's own choice must not be asked by any other route either
	NoIPv6   bool   // the route has no IPv6: AAAA is NODATA
}

// Query is one question and what became of it, for the event log.
type Query struct {
	Hostname string   // the name as it was asked, lower case, without the final dot; hostile text
	Qtype    string   // "A", "HTTPS", "TYPE65280"
	Server   string   // who was asked, as ADDRESS:PORT inside the sandbox
	Rcode    string   // of the answer the sandbox got: "NOERROR", "NXDOMAIN"; "" when none came
	Answers  []string // rdata the sandbox got, in presentation form, at most 32 of at most 255 octets; hostile text
	Route    string
	Client   string // who has answered, where the [Upstream] can say so
	Verdict  string // "allow", "deny", "would-deny"
	Rule     string
	Reason   string
	Confirm  bool // weir's own question on behalf of a flow ([Server.Confirm]), not one of the sandbox
	Duration time.Duration
}

// Server answers the questions of one sandbox. Upstream and Decide are needed; the zero value of every other field is
// usable. Once a method was called, fields must not change and the Server must not be copied.
type Server struct {
	Upstream Upstream
	Memory   *Memory // where evidence goes; nil keeps none
	Route    string  // the route that Upstream stands for, "direct" if empty
	Enforce  bool    // what is not understood is denied; false (audit): it passes

	// Upstreams are those of other routes that [Verdict].Route may name. A question for a route that is not there is answered
	// SERVFAIL, never asked elsewhere.
	Upstreams map[string]Upstream

	// Decide judges a name in normal form, without leading _service._proto labels.
	Decide func(name string, qtype uint16) Verdict
	// DecideChain judges the CNAME chain members of an answer; only a deny has an effect. Nil allows.
	DecideChain func(names []string) Verdict
	// Answer says whether an answer for name may carry addr (rebinding), and if not why. Nil keeps all. The address is as
	// the record has it: IPv4 embedded in IPv6 stays embedded.
	Answer func(name string, addr netip.Addr) (keep bool, reason string)
	// Record is called once for each question, from many goroutines; it must not block. Nil records nothing.
	Record func(Query)
	// Alert is called when the questions about domain go over a budget (see [BudgetRate]), once in [BudgetWindow]; it must not
	// block. Nil tells nobody.
	Alert func(domain string)

	StripECH bool                    // take ech out of HTTPS and SVCB answers
	IPv6     bool                    // false: AAAA is NODATA, by whatever route
	Local    map[string][]netip.Addr // names in normal form that are answered here: host.weir.internal

	Search []string // the search domains inside, in normal form, for [Query].Expansion

	MaxInFlight int // default [DefaultInFlight]; questions beyond it are answered SERVFAIL
	Log         logrus.FieldLogger

	once     sync.Once
	slots    chan struct{}
	confirms confirms
	counters counters
	budget   budget
}

// counters are what happened, for [Server.Counters].
type counters struct {
	queries, blocked, rebinding, servfail, limited      atomic.Uint64
	malformed, refused, chainTooLong, tcpLimited        atomic.Uint64
	confirmed, unconfirmed, confirmLimited              atomic.Uint64
	watched, watchBlocked, watchMalformed, watchDropped atomic.Uint64
	overBudget, bulky, udpDropped                       atomic.Uint64
}

// Counters returns how often what happened since the server was made, by name.
func (s *Server) Counters() map[string]uint64 {
	c := &s.counters
	return map[string]uint64{
		"queries": c.queries.Load(), "blocked": c.blocked.Load(), "rebinding": c.rebinding.Load(),
		"servfail": c.servfail.Load(), "limited": c.limited.Load(), "malformed": c.malformed.Load(),
		"refused": c.refused.Load(), "chain-too-long": c.chainTooLong.Load(), "tcp-limited": c.tcpLimited.Load(),
		"confirmed": c.confirmed.Load(), "unconfirmed": c.unconfirmed.Load(), "confirm-limited": c.confirmLimited.Load(),
		"watched": c.watched.Load(), "watch-blocked": c.watchBlocked.Load(),
		"watch-malformed": c.watchMalformed.Load(), "watch-dropped": c.watchDropped.Load(),
		"over-budget": c.overBudget.Load(), "bulky-types": c.bulky.Load(), "udp-dropped": c.udpDropped.Load(),
	}
}

// Serve answers on pc (UDP) and ln (TCP), either of which may be nil, until ctx ends or one of them fails. It closes both
// and returns when the questions at work are done. The error is never nil. It may be called once for each address; the
// bound of questions in flight is the Server's, the one of connections each call's.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, ln net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		if pc != nil {
			pc.Close()
		}
		if ln != nil {
			ln.Close()
		}
	})
	defer stop()
	var work sync.WaitGroup
	if pc != nil {
		work.Go(func() { cancel(s.serveUDP(ctx, pc)) })
	}
	if ln != nil {
		work.Go(func() { cancel(s.serveTCP(ctx, ln)) })
	}
	if pc == nil && ln == nil {
		return errors.New("serve dns: nothing to listen on")
	}
	work.Wait()
	return context.Cause(ctx)
}

// enter takes a place among the questions in flight; leave gives it back.
func (s *Server) enter() bool {
	s.once.Do(func() {
		if s.MaxInFlight <= 0 {
			s.slots = make(chan struct{}, DefaultInFlight)
		} else {
			s.slots = make(chan struct{}, s.MaxInFlight)
		}
	})
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.counters.limited.Add(1)
		return false
	}
}

func (s *Server) leave() { <-s.slots }

func (s *Server) route() string {
	if s.Route == "" {
		return "direct"
	}
	return s.Route
}

// routeOf is the route that v speaks of.
func (s *Server) routeOf(v Verdict) string {
	if v.Route == "" {
		return s.route()
	}
	return v.Route
}

func (s *Server) record(q Query) {
	if s.Record != nil {
		if q.Route == "" {
			q.Route = s.route()
		}
		s.Record(q)
	}
}

func (s *Server) debug(what string, err error) {
	if s.Log != nil {
		s.Log.WithError(err).Debug(what)
	}
}
