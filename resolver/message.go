package resolver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

const headerLen = 12

// maxQuestion is the longest message that is read as a question, in octets: the longest name, an OPT record, and options
// many times over. A message of 64 KiB can hold six thousand records, and each would be in memory while its question waits.
const maxQuestion = 4096

// The limits of what one event says of an answer.
const (
	maxAnswers   = 32
	maxAnswerLen = 255
)

var errNotQuery = errors.New("not a dns query")

// readQuery parses a client's message. A message that deserves no answer at all (too short, or itself an answer, which
// would make a loop) is errNotQuery; any other rcode than NOERROR is what it must be answered with.
func readQuery(raw []byte) (q *dns.Msg, rcode int, err error) {
	if len(raw) < headerLen || raw[2]&0x80 != 0 {
		return nil, 0, errNotQuery
	}
	q = new(dns.Msg)
	if len(raw) > maxQuestion || q.Unpack(raw) != nil {
		q = &dns.Msg{MsgHdr: dns.MsgHdr{
			Id: uint16(raw[0])<<8 | uint16(raw[1]), Opcode: int(raw[2]>>3) & 0xf, RecursionDesired: raw[2]&1 != 0,
		}}
		if q.Opcode != dns.OpcodeQuery {
			return q, dns.RcodeNotImplemented, nil
		}
		return q, dns.RcodeFormatError, nil
	}
	q.Answer, q.Ns = nil, nil // nothing is done with them, and they would wait along
	return q, fault(q), nil
}

// fault is the rcode of a question that is refused before anybody looks at its name.
func fault(q *dns.Msg) int {
	if q.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if len(q.Question) != 1 || options(q) > 1 {
		return dns.RcodeFormatError
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers
	}
	if q.Question[0].Qclass != dns.ClassINET {
		return dns.RcodeRefused
	}
	if stub.Meta(q.Question[0].Qtype) {
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// options counts OPT records: more than one is a format error (RFC 6891 section 6.1.1).
func options(m *dns.Msg) int {
	n := 0
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

// explain adds an extended error (RFC 8914) when the client speaks EDNS.
func explain(r *dns.Msg, code uint16, text string) *dns.Msg {
	if opt := r.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	return r
}

// blocked is the answer to a name that the policy does not let through.
func blocked(q *dns.Msg) *dns.Msg {
	return explain(stub.Reply(q, dns.RcodeNameError), dns.ExtendedErrorCodeBlocked, "")
}

// relay turns an upstream's answer into ours. Transport records stay behind, extended errors travel on.
func relay(q, up *dns.Msg) *dns.Msg {
	r := stub.Reply(q, up.Rcode)
	r.Authoritative, r.AuthenticatedData, r.Truncated = up.Authoritative, up.AuthenticatedData, up.Truncated
	r.Answer, r.Ns = up.Answer, up.Ns
	own := r.Extra
	r.Extra = nil
	for _, rr := range up.Extra {
		switch rr.Header().Rrtype {
		case dns.TypeTSIG, dns.TypeSIG:
		case dns.TypeOPT:
			if len(own) == 0 {
				continue
			}
			for _, o := range rr.(*dns.OPT).Option {
				if ede, ok := o.(*dns.EDNS0_EDE); ok {
					opt := own[0].(*dns.OPT)
					opt.Option = append(opt.Option, ede)
				}
			}
		default:
			r.Extra = append(r.Extra, rr)
		}
	}
	if r.Rcode > 0xf && len(own) == 0 {
		r.Rcode = dns.RcodeServerFailure // the upper bits of an rcode travel in EDNS
	}
	r.Extra = append(r.Extra, own...)
	return r
}

// udpSize is how many octets of answer the client takes in one datagram.
func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return int(min(max(opt.UDPSize(), dns.MinMsgSize), MaxUDP))
	}
	return dns.MinMsgSize
}

// answersOf lists the rdata of an answer for the event log.
func answersOf(m *dns.Msg) []string {
	if m == nil {
		return nil
	}
	var out []string
	for _, rr := range m.Answer {
		if len(out) == maxAnswers {
			break
		}
		text := rdataOf(rr)
		out = append(out, text[:min(len(text), maxAnswerLen)])
	}
	return out
}

// rdataOf is a record in presentation form without owner, TTL, class and type.
func rdataOf(rr dns.RR) string {
	if u, ok := rr.(*dns.RFC3597); ok {
		return fmt.Sprintf(`\# %d %s`, len(u.Rdata)/2, u.Rdata)
	}
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}
