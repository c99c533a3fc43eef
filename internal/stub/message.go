package stub

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
)

// UDPSize is the size of UDP answer that weir itself offers to take: no fragments on any common path.
const UDPSize = 1232

// LocalTTL is the TTL of answers made here, in seconds.
const LocalTTL = 60

// Meta reports whether a question of this type is none that a stub could pass on: zone transfers, which have more than one
// answer, and types that only stand in messages (RFC 6895 section 3.1).
func Meta(qtype uint16) bool {
	switch qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTSIG, dns.TypeTKEY, dns.TypeOPT, dns.TypeNone:
		return true
	}
	return false
}

// Ask makes the question that goes to a nameserver from q, which has exactly one. Nothing of the client's message goes
// along but the question, the bits that change the answer (RD, CD, AD, DO) and whether it speaks EDNS: options, such as the
// client's subnet (RFC 7871), are between neighbours (RFC 6891 section 6.2.6), and a place to hide bytes in. So is the case
// of the letters: the name goes in lower case.
func Ask(q *dns.Msg) *dns.Msg {
	up := new(dns.Msg)
	up.MsgHdr = dns.MsgHdr{
		Id: dns.Id(), RecursionDesired: true, CheckingDisabled: q.CheckingDisabled, AuthenticatedData: q.AuthenticatedData,
	}
	up.Question = []dns.Question{q.Question[0]}
	up.Question[0].Name = dns.CanonicalName(q.Question[0].Name)
	if opt := q.IsEdns0(); opt != nil {
		up.SetEdns0(UDPSize, opt.Do())
	}
	return up
}

// Reply makes an empty answer to q: the question as it was spelled, the flags a client expects of a recursive server.
func Reply(q *dns.Msg, rcode int) *dns.Msg {
	r := new(dns.Msg)
	r.MsgHdr = dns.MsgHdr{
		Id: q.Id, Response: true, Opcode: q.Opcode, Rcode: rcode, RecursionAvailable: true,
		RecursionDesired: q.RecursionDesired, CheckingDisabled: q.CheckingDisabled,
	}
	r.Question = q.Question
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(UDPSize, opt.Do())
	}
	return r
}

// Address is the record of addr that answers q, nil when q asks for something else.
func Address(q *dns.Msg, addr netip.Addr) dns.RR {
	qtype := q.Question[0].Qtype
	switch {
	case addr.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
		return &dns.A{Hdr: Header(q, dns.TypeA), A: addr.AsSlice()}
	case addr.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
		return &dns.AAAA{Hdr: Header(q, dns.TypeAAAA), AAAA: addr.AsSlice()}
	}
	return nil
}

// Header begins a record of the name that q asks for.
func Header(q *dns.Msg, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Question[0].Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: LocalTTL}
}

// ReverseName is the name of addr's reverse question, in normal form.
func ReverseName(addr netip.Addr) string {
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return ""
	}
	if name, err = hostname.Labels(name); err != nil {
		return ""
	}
	return name
}

// ReadFrame reads one message with its two octets of length before it (RFC 1035 section 4.2.2).
func ReadFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, fmt.Errorf("read dns message: %w", err)
	}
	return msg, nil
}

// Frame puts the length before a message, to be written in one piece.
func Frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
}
