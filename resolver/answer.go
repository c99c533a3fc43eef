package resolver

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

// outcome is the answer to one question and how it came about.
type outcome struct {
	msg     *dns.Msg // never nil
	verdict Verdict
	trace   trace // what was learned
	by      string
}

func (o outcome) blocked() bool { return !o.verdict.Allow }

// handle answers one message of the sandbox; nil means silence. limit is the size of the largest answer the transport
// carries to this client, 0 for what the message itself says (UDP).
func (s *Server) handle(ctx context.Context, raw []byte, server string, limit int) []byte {
	q, rcode, err := readQuery(raw)
	if err != nil {
		s.counters.malformed.Add(1)
		return nil
	}
	if limit == 0 {
		limit = udpSize(q)
	}
	start := time.Now()
	if rcode != dns.RcodeSuccess {
		return s.refuse(q, rcode, server, limit)
	}
	s.counters.queries.Add(1)
	var out outcome
	if s.enter() {
		out = s.resolve(ctx, q)
		s.leave()
	} else {
		out = outcome{msg: stub.Reply(q, dns.RcodeServerFailure), verdict: Verdict{Rule: "builtin:in-flight", Reason: "limit"}}
	}
	answer := s.pack(q, out.msg, limit)
	s.note(q.Question[0], server, out, start, false)
	return answer
}

// refuse answers a message whose name nobody looks at, and records the question if there is one.
func (s *Server) refuse(q *dns.Msg, rcode int, server string, limit int) []byte {
	if rcode == dns.RcodeFormatError {
		s.counters.malformed.Add(1)
	} else {
		s.counters.refused.Add(1)
	}
	out := outcome{msg: stub.Reply(q, rcode), verdict: Verdict{Rule: "builtin:dns", Reason: "malformed"}}
	if len(q.Question) == 1 {
		s.note(q.Question[0], server, out, time.Now(), false)
	}
	return s.pack(q, out.msg, limit)
}

// note records one question.
func (s *Server) note(q dns.Question, server string, out outcome, start time.Time, confirm bool) {
	s.record(Query{
		Hostname: nameOf(q.Name).full, Qtype: typeName(q.Qtype), Server: server, Rcode: rcodeName(out.msg.Rcode),
		Answers: answersOf(out.msg), Verdict: out.verdict.String(), Rule: out.verdict.Rule, Reason: out.verdict.Reason,
		Route: out.verdict.Route, Client: out.by, Confirm: confirm, Duration: time.Since(start),
	})
}

// String is the verdict in the words of the event log.
func (v Verdict) String() string {
	switch {
	case !v.Allow:
		return "deny"
	case v.WouldDeny:
		return "would-deny"
	}
	return "allow"
}

// resolve takes a well-formed question through the pipeline of the package comment.
func (s *Server) resolve(ctx context.Context, q *dns.Msg) outcome {
	question := q.Question[0]
	name := nameOf(question.Name)
	if out, ok := s.special(q, name); ok {
		return out
	}
	v := s.judge(name, question.Qtype)
	if !v.Allow {
		s.counters.blocked.Add(1)
		if v = s.chargeDenied(v); v.Reason == "limit" {
			return outcome{msg: refusedAnswer(q), verdict: v}
		}
		return outcome{msg: blocked(q), verdict: v}
	}
	if question.Qtype == dns.TypeAAAA && (!s.IPv6 || v.NoIPv6) {
		return outcome{msg: stub.Reply(q, dns.RcodeSuccess), verdict: v}
	}
	if v = s.charge(name, q, v, 0); !v.Allow {
		return outcome{msg: refusedAnswer(q), verdict: v}
	}
	ctx, cancel := context.WithTimeout(ctx, MaxAnswer)
	defer cancel()
	up, by, err := s.exchange(ctx, v.Route, stub.Ask(q))
	if err != nil {
		return s.failed(q, v, err)
	}
	out := s.accept(q, name, relay(q, up), v)
	out.by = by
	return out
}

// exchange asks the upstream of a route.
func (s *Server) exchange(ctx context.Context, route string, q *dns.Msg) (answer *dns.Msg, by string, err error) {
	up := s.Upstream
	if route != "" && route != s.route() {
		if up = s.Upstreams[route]; up == nil {
			return nil, "", &Unavailable{Reason: "no-tunnel", Rule: "builtin:route", Err: errNoRoute}
		}
	}
	if a, ok := up.(Attributed); ok {
		return a.ExchangeBy(ctx, q)
	}
	answer, err = up.Exchange(ctx, q)
	return answer, "", err
}

var errNoRoute = errors.New("the route is not there")

// failed is the answer to a question to which none came.
func (s *Server) failed(q *dns.Msg, v Verdict, err error) outcome {
	s.counters.servfail.Add(1)
	s.debug("ask upstream", err)
	var none *Unavailable
	if errors.As(err, &none) {
		v.Allow, v.WouldDeny, v.Rule, v.Reason = false, false, none.Rule, none.Reason
	}
	return outcome{msg: explain(stub.Reply(q, dns.RcodeServerFailure), dns.ExtendedErrorCodeNoReachableAuthority, ""), verdict: v}
}

// judge asks the policy. A name that no rule can be written for passes in audit only.
func (s *Server) judge(name asked, qtype uint16) Verdict {
	if !name.odd {
		return s.Decide(name.judged, qtype)
	}
	if s.Enforce {
		return Verdict{Rule: "builtin:name", Reason: "malformed"}
	}
	return Verdict{Allow: true, WouldDeny: true, Rule: "builtin:name", Reason: "malformed"}
}

// accept judges, filters and learns from an answer before the sandbox gets it.
func (s *Server) accept(q *dns.Msg, name asked, r *dns.Msg, v Verdict) outcome {
	t := traceAnswer(q.Question[0].Name, r.Answer)
	if t.tooLong {
		s.counters.chainTooLong.Add(1)
		if s.Enforce {
			return outcome{msg: stub.Reply(q, dns.RcodeServerFailure), verdict: Verdict{Rule: "builtin:chain", Reason: "limit", Route: v.Route}}
		}
	}
	if s.DecideChain != nil && len(t.chain) > 0 {
		switch c := s.DecideChain(t.chain); {
		case !c.Allow:
			s.counters.blocked.Add(1)
			c.Route = v.Route
			return outcome{msg: blocked(q), verdict: c}
		case c.WouldDeny && !v.WouldDeny:
			v.Allow, v.WouldDeny, v.Rule, v.Reason = c.Allow, c.WouldDeny, c.Rule, c.Reason
		}
	}
	before := len(t.addrs)
	f := s.filter(name.judged, r, s.IPv6 && !v.NoIPv6)
	if f.changed {
		r.AuthenticatedData = false
		t = traceAnswer(q.Question[0].Name, r.Answer)
	}
	if f.addrs > 0 {
		s.counters.rebinding.Add(1)
		v.Reason = f.reason
		v.Allow = len(t.addrs) > 0 || before == 0
	}
	if !name.odd && !t.tooLong && s.Memory != nil {
		s.Memory.Learn(s.routeOf(v), name.judged, t.chain, t.addrs, t.ttl)
	}
	return outcome{msg: r, verdict: v, trace: t}
}

// pack makes the bytes of an answer to q that fits into limit octets, cut and marked TC where it does not.
func (s *Server) pack(q, r *dns.Msg, limit int) []byte {
	r.Compress = true
	r.Truncate(limit)
	b, err := r.Pack()
	if err == nil && len(b) <= limit {
		return b
	}
	if err != nil {
		s.debug("pack answer", err)
	}
	s.counters.servfail.Add(1)
	if b, err = stub.Reply(q, dns.RcodeServerFailure).Pack(); err != nil {
		return nil
	}
	return b
}
