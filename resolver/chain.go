package resolver

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// MaxChain is how many names an answer may lead on to from the one that was asked. Resolvers give up at about as many.
const MaxChain = 16

// trace is what an answer says of the name that was asked, and nothing that merely lies beside it.
type trace struct {
	chain   []string     // CNAME, DNAME and SVCB targets, without the name that was asked
	addrs   []netip.Addr // A, AAAA and address hints whose owner the chain reaches
	ttl     time.Duration
	tooLong bool // more than MaxChain members: the rest was not looked at
}

// traceAnswer walks the answer section from qname along CNAMEs (RFC 1034 section 3.6.2) and DNAMEs (RFC 6672). Owners out of
// reach count for nothing, whatever the server meant by them. Targets of HTTPS and SVCB records are chain members, because
// a client connects to them under the asked name, but their own address records need a question of their own.
func traceAnswer(qname string, answer []dns.RR) trace {
	t := trace{ttl: MaxEvidence}
	reach := []string{nameOf(qname).full}
	owners := make([]string, len(answer))
	for i, rr := range answer {
		owners[i] = nameOf(rr.Header().Name).full
	}
	for i := 0; i < len(reach) && !t.tooLong; i++ {
		for j, rr := range answer {
			target, ok := next(reach[i], owners[j], rr)
			if !ok {
				continue
			}
			t.age(rr)
			if to := nameOf(target).full; !slices.Contains(reach, to) {
				reach = append(reach, to)
			}
			if len(reach) > MaxChain+1 {
				t.tooLong = true
				break
			}
		}
	}
	t.chain = slices.Clip(reach[1:])
	for i, rr := range answer {
		if slices.Contains(reach, owners[i]) {
			t.take(rr)
		}
	}
	return t
}

// next returns where rr, a record of owner, leads from name.
func next(name, owner string, rr dns.RR) (target string, ok bool) {
	switch rr := rr.(type) {
	case *dns.CNAME:
		return rr.Target, owner == name
	case *dns.DNAME:
		if len(name) > len(owner) && isOrUnder(name, owner) {
			return name[:len(name)-len(owner)] + rr.Target, true
		}
	}
	return "", false
}

func (t *trace) take(rr dns.RR) {
	if rr.Header().Class != dns.ClassINET {
		return
	}
	switch rr := rr.(type) {
	case *dns.A, *dns.AAAA:
		addr, _ := addressOf(rr)
		t.bind(rr, addr)
	case *dns.HTTPS:
		t.service(rr, &rr.SVCB)
	case *dns.SVCB:
		t.service(rr, rr)
	}
}

func (t *trace) service(rr dns.RR, svcb *dns.SVCB) {
	if target := nameOf(svcb.Target).full; target != "" && !slices.Contains(t.chain, target) {
		if len(t.chain) >= MaxChain {
			t.tooLong = true
			return
		}
		t.chain = append(t.chain, target)
	}
	for _, kv := range svcb.Value {
		for _, addr := range hintsOf(kv) {
			t.bind(rr, addr)
		}
	}
}

func (t *trace) bind(rr dns.RR, addr netip.Addr) {
	if addr = plain(addr); !addr.IsValid() {
		return
	}
	t.age(rr)
	if !slices.Contains(t.addrs, addr) {
		t.addrs = append(t.addrs, addr)
	}
}

// age lowers the TTL to that of rr. One with the highest bit set is zero (RFC 2181 section 8).
func (t *trace) age(rr dns.RR) {
	ttl := rr.Header().Ttl
	if ttl > 1<<31-1 {
		ttl = 0
	}
	t.ttl = min(t.ttl, time.Duration(ttl)*time.Second)
}

// addressOf returns the address of an A or AAAA record as it is written there: an IPv4-mapped one stays so.
func addressOf(rr dns.RR) (addr netip.Addr, ok bool) {
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok = netip.AddrFromSlice(rr.A)
		return addr.Unmap(), ok
	case *dns.AAAA:
		return netip.AddrFromSlice(rr.AAAA)
	}
	return netip.Addr{}, false
}

// hintsOf returns the addresses of an ipv4hint or ipv6hint parameter.
func hintsOf(kv dns.SVCBKeyValue) []netip.Addr {
	var addrs []netip.Addr
	switch kv := kv.(type) {
	case *dns.SVCBIPv4Hint:
		for _, ip := range kv.Hint {
			a, _ := netip.AddrFromSlice(ip)
			addrs = append(addrs, a.Unmap())
		}
	case *dns.SVCBIPv6Hint:
		for _, ip := range kv.Hint {
			a, _ := netip.AddrFromSlice(ip)
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func itoa(n int) string { return strconv.Itoa(n) }
