package resolver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// plausible reports whether a header may be that of a question: not an answer, opcode QUERY, one question, and no records
// but those that belong to one (the SOA of an IXFR, and OPT, TSIG or SIG(0)).
func plausible(header []byte) bool {
	count := func(at int) uint16 { return binary.BigEndian.Uint16(header[at:]) }
	return header[2]&0xf8 == 0 && header[3]&0xf == 0 &&
		count(4) == 1 && count(6) == 0 && count(8) <= 1 && count(10) <= 2
}

// inspect parses a question that will travel on as it is. It takes nothing that two parsers could read in two ways: no
// pointer in the name, which has nothing to point to, and no octet after the last record.
func inspect(raw []byte) (q *dns.Msg, ok bool) {
	if len(raw) < minQuestion || !plausible(raw) {
		return nil, false
	}
	end, ok := skipName(raw, headerLen, false)
	if !ok {
		return nil, false
	}
	end += 4 // type and class
	records := int(binary.BigEndian.Uint16(raw[8:])) + int(binary.BigEndian.Uint16(raw[10:]))
	for range records {
		if end, ok = skipName(raw, end, true); !ok || end+10 > len(raw) {
			return nil, false
		}
		end += 10 + int(binary.BigEndian.Uint16(raw[end+8:]))
	}
	if end != len(raw) {
		return nil, false
	}
	q = new(dns.Msg)
	if err := q.Unpack(raw); err != nil || len(q.Question) != 1 || options(q) > 1 {
		return nil, false
	}
	if len(q.Ns) > 0 && q.Question[0].Qtype != dns.TypeIXFR {
		return nil, false
	}
	return q, true
}

// skipName returns the offset after the name at off.
func skipName(b []byte, off int, pointers bool) (int, bool) {
	for off < len(b) {
		switch c := int(b[off]); {
		case c == 0:
			return off + 1, true
		case c < 0x40:
			off += 1 + c
		case c >= 0xc0 && pointers:
			return off + 2, off+2 <= len(b)
		default:
			return 0, false
		}
	}
	return 0, false
}
