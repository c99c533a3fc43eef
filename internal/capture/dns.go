package capture

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of a DNS message that is believed.
const (
	maxQuestionsPerMessage = 16
	maxAnswers             = 128
)

// isDNSPort reports whether DNS messages are expected on a port: DNS itself, multicast DNS (RFC 6762) and LLMNR
// (RFC 4795).
func isDNSPort(port uint16) bool { return port == 53 || port == 5353 || port == 5355 }

// message reads one DNS message and reports whether it was one. A message cut off behind its questions still counts.
func (t *table) message(proto uint8, at time.Time, src, dst netip.AddrPort, b []byte) bool {
	if len(b) < 12 {
		return false
	}
	count := int(binary.BigEndian.Uint16(b[4:]))
	var m dns.Msg
	err := m.Unpack(b)
	if count > maxQuestionsPerMessage || len(m.Question) != count || count == 0 && err != nil {
		return false
	}
	for _, q := range m.Question {
		key := questionKey{proto: proto, id: m.Id, name: presentation(q.Name), qtype: q.Qtype}
		if m.Response {
			key.client, key.server = dst, src
			t.asked.answer(key, at, rcodeName(m.Rcode), answers(m.Answer))
		} else {
			key.client, key.server = src, dst
			t.asked.ask(key, at)
		}
	}
	return true
}

// answers are the records in short form: addresses, and the names that others lead to.
func answers(records []dns.RR) []string {
	var list []string
	for _, rr := range records[:min(len(records), maxAnswers)] {
		switch rr := rr.(type) {
		case *dns.A:
			list = append(list, rr.A.String())
		case *dns.AAAA:
			list = append(list, rr.AAAA.String())
		case *dns.CNAME:
			list = append(list, presentation(rr.Target))
		case *dns.DNAME:
			list = append(list, presentation(rr.Target))
		case *dns.PTR:
			list = append(list, presentation(rr.Ptr))
		case *dns.MX:
			list = append(list, presentation(rr.Mx))
		case *dns.SRV:
			list = append(list, presentation(rr.Target))
		}
	}
	return list
}

// presentation is a name in lower case without the final dot. Octets that are printable stand for themselves, except for
// a dot or backslash inside a label, which get a backslash; all others are \DDD (RFC 1035 section 5.1).
func presentation(name string) string {
	if name == "." {
		return name
	}
	name = name[:len(name)-1]
	b := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '\\' && i+1 < len(name) && strings.IndexByte(` '@;()"`, name[i+1]) >= 0 {
			continue
		}
		if c == '\\' && i+1 < len(name) {
			b = append(b, c, name[i+1])
			i++
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}

func rcodeName(code int) string {
	if s, ok := dns.RcodeToString[code]; ok {
		return s
	}
	return "RCODE" + strconv.Itoa(code)
}

// dnsStream cuts the messages out of a TCP stream (RFC 1035 section 4.2.2).
type dnsStream struct {
	buf  []byte
	over bool // something else than DNS was seen
}

// feed takes the next octets and calls message for each whole message, which says whether it was one. Once it was not,
// octets that are left come back.
func (d *dnsStream) feed(b []byte, message func([]byte) bool) (rest []byte) {
	if d.over {
		return b
	}
	d.buf = append(d.buf, b...)
	for len(d.buf) >= 2 {
		n := 2 + int(binary.BigEndian.Uint16(d.buf))
		if len(d.buf) >= 8 && binary.BigEndian.Uint16(d.buf[6:]) > maxQuestionsPerMessage {
			n = 0
		}
		if len(d.buf) < n {
			return nil
		}
		if n == 0 || !message(d.buf[2:n]) {
			d.over = true
			return d.rest()
		}
		d.buf = d.buf[n:]
	}
	if len(d.buf) == 0 {
		d.buf = nil
	}
	return nil
}

// rest returns the octets that wait for the end of their message.
func (d *dnsStream) rest() []byte {
	b := d.buf
	d.buf = nil
	return b
}
