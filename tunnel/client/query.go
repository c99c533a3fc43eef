package client

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/tunnel"
)

// ednsSize is what we tell our own resolver that we take (RFC 6891); the tunnel has room for any message. queryFor bounds one
// question.
const (
	ednsSize = 4096
	queryFor = 5 * time.Second
)

// Query implements [tunnel.Handler].
func (h *Handler) Query(ctx context.Context, q tunnel.Query) ([]byte, error) {
	began := time.Now()
	m := new(dns.Msg)
	if err := m.Unpack(q.Message); err != nil || m.Response || len(m.Question) != 1 {
		return nil, tunnel.Errorf(tunnel.Malformed, "no DNS question")
	}
	told := &event.DNSQuery{Hostname: strings.TrimSuffix(m.Question[0].Name, "."), QType: dns.Type(m.Question[0].Qtype).String(), Route: "tunnel", Client: h.told.client}
	reply, err := h.answer(ctx, q, m, told)
	told.Duration = time.Since(began)
	var wire []byte
	if err == nil {
		told.RCode = dns.RcodeToString[reply.Rcode]
		wire, err = reply.Pack()
	}
	h.told.emit(q.Owner, "", told)
	if err != nil {
		return nil, &tunnel.Error{Code: queryCode(err), Text: ""}
	}
	return wire, nil
}

// queryCode is how a question failed; the words of our own resolver stay here.
func queryCode(err error) tunnel.Code {
	if code := tunnel.CodeOf(err); code != tunnel.Internal {
		return code
	}
	return tunnel.NameFailed
}

// answer judges a question, asks this machine's resolver, and takes out of the answer what may not leave or be believed.
func (h *Handler) answer(ctx context.Context, q tunnel.Query, m *dns.Msg, told *event.DNSQuery) (*dns.Msg, error) {
	deny := func(reason, rule string, rcode int) (*dns.Msg, error) {
		told.Verdict, told.Reason, told.Rule = "deny", reason, rule
		return refusal(m, rcode), nil
	}
	if h.paused.is() || h.scans.paused(q.App) > 0 {
		h.paused.refused.Add(1)
		return deny(reasonPaused, "builtin:paused", dns.RcodeRefused)
	}
	answered, err := h.limits.admitQuery()
	if err != nil {
		told.Verdict, told.Reason, told.Rule = "deny", reasonLimit, "builtin:limit"
		return nil, err
	}
	defer answered()
	question := m.Question[0]
	if m.Opcode != dns.OpcodeQuery || question.Qclass != dns.ClassINET || wholesale(question.Qtype) {
		return deny(policy.ReasonDNSBlocked, "builtin:type", dns.RcodeRefused)
	}
	d := h.policy.mayAsk(q.App, question.Name, question.Qtype)
	if d.Verdict == policy.Deny && h.asker != nil && open(d.Reason) {
		if prompt := promptForName(q.Owner, question.Name); askable(prompt.Name) {
			if a, _ := h.asker.may(ctx, prompt); a != Refuse {
				d = policy.NameDecision{Verdict: policy.Allow, Rule: ruleAsked}
			}
		}
	}
	if d.Verdict == policy.Deny {
		return deny(d.Reason, d.Rule, dns.RcodeNameError)
	}
	told.Verdict, told.Rule, told.Reason = d.Verdict.String(), d.Rule, d.Reason
	ctx, cancel := context.WithTimeout(ctx, queryFor)
	defer cancel()
	reply, err := h.lookUp(ctx, m)
	if err != nil {
		return nil, err
	}
	return h.filter(q, reply, told), nil
}

// wholesale reports whether a type asks for more than one thing: whole zones, or everything about a name.
func wholesale(qtype uint16) bool {
	return qtype == dns.TypeANY || qtype == dns.TypeAXFR || qtype == dns.TypeIXFR || qtype == dns.TypeMAILA || qtype == dns.TypeMAILB
}

// askable reports whether a name can stand in a rule.
func askable(name string) bool {
	_, err := hostname.Normalize(name)
	return err == nil
}

// lookUp asks this machine's resolver: the same question, and nothing else of the message. Options of EDNS, the client's
// subnet among them (RFC 7871), stay behind.
func (h *Handler) lookUp(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	if h.names == nil {
		return nil, tunnel.Errorf(tunnel.NameFailed, "")
	}
	ask := new(dns.Msg)
	ask.Id = dns.Id()
	ask.RecursionDesired, ask.CheckingDisabled, ask.AuthenticatedData = true, m.CheckingDisabled, m.AuthenticatedData
	ask.Question = slices.Clone(m.Question)
	for i := range ask.Question { // whoever asked must not be able to write with the case of letters
		ask.Question[i].Name = strings.ToLower(ask.Question[i].Name)
	}
	edns := m.IsEdns0()
	ask.SetEdns0(ednsSize, edns != nil && edns.Do())
	reply, err := h.names.Exchange(ctx, ask)
	if err != nil {
		return nil, err
	}
	if reply == nil {
		return nil, tunnel.Errorf(tunnel.NameFailed, "")
	}
	reply = reply.Copy()
	reply.Id, reply.Question, reply.Response = m.Id, m.Question, true
	reply.Extra = slices.DeleteFunc(reply.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	if edns != nil {
		reply.SetEdns0(ednsSize, edns.Do())
	}
	reply.Compress = true
	return reply, nil
}

// filter removes guarded addresses from an answer, remembers the others, and ends an answer that leads over a denied name.
func (h *Handler) filter(q tunnel.Query, reply *dns.Msg, told *event.DNSQuery) *dns.Msg {
	p := h.policy.app(q.App)
	a, ok := read(reply)
	if !ok {
		return refusal(reply, dns.RcodeServerFailure)
	}
	for _, n := range a.chain {
		if d := p.DecideChain(n); d.Verdict == policy.Deny {
			told.Verdict, told.Reason, told.Rule = "deny", d.Reason, d.Rule
			return refusal(reply, dns.RcodeNameError)
		}
	}
	allowed := func(addr netip.Addr) bool {
		ok, reason := p.AnswerAllowed(a.name, addr)
		if !ok {
			told.Reason = reason
		}
		return ok
	}
	for _, section := range []*[]dns.RR{&reply.Answer, &reply.Extra} {
		*section = slices.DeleteFunc(*section, func(rr dns.RR) bool { return !strip(rr, allowed) })
	}
	for _, rr := range reply.Answer {
		if len(told.Answers) < maxTold {
			told.Answers = append(told.Answers, short(rr))
		}
	}
	a, _ = read(reply)
	h.evidence.learn(q.Space, q.Sandbox, a)
	return reply
}

// maxTold bounds the records of one answer that the event log has.
const maxTold = 64

// strip removes hints that are not allowed from a record, and reports whether the record itself may stay.
func strip(rr dns.RR, allowed func(netip.Addr) bool) bool {
	hints := func(values []dns.SVCBKeyValue) []dns.SVCBKeyValue {
		return slices.DeleteFunc(values, func(v dns.SVCBKeyValue) bool {
			hint := &dns.SVCB{Value: []dns.SVCBKeyValue{v}}
			return slices.ContainsFunc(addresses(hint), func(a netip.Addr) bool { return !allowed(a) })
		})
	}
	switch rr := rr.(type) {
	case *dns.HTTPS:
		rr.Value = hints(rr.Value)
		return true
	case *dns.SVCB:
		rr.Value = hints(rr.Value)
		return true
	}
	return !slices.ContainsFunc(addresses(rr), func(a netip.Addr) bool { return !allowed(a) })
}

// short is a record as the event log has it: an address, the target of an alias, else the type.
func short(rr dns.RR) string {
	switch rr := rr.(type) {
	case *dns.A:
		return rr.A.String()
	case *dns.AAAA:
		return rr.AAAA.String()
	case *dns.CNAME:
		return strings.TrimSuffix(rr.Target, ".")
	}
	return dns.Type(rr.Header().Rrtype).String()
}

// refusal answers a question with a code and nothing else; with EDNS it says that a list did it (RFC 8914, code 15 blocked).
func refusal(m *dns.Msg, rcode int) *dns.Msg {
	r := new(dns.Msg)
	r.SetRcode(m, rcode)
	r.RecursionAvailable = true
	if edns := m.IsEdns0(); edns != nil {
		r.SetEdns0(ednsSize, edns.Do())
		if rcode != dns.RcodeServerFailure {
			r.IsEdns0().Option = append(r.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked})
		}
	}
	return r
}
