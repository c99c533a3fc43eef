package resolver

import (
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// filtered says what was taken out of an answer.
type filtered struct {
	addrs   int    // addresses that the name must not have
	reason  string // why the first of them went
	changed bool   // anything went at all: signatures over it no longer hold

	ipv6 bool // IPv6 may stay
}

// filter takes out of every section of m the addresses that an answer for name must not carry, IPv6 where there is none,
// and ECH keys. What is empty then stays: an answer with nothing left is NOERROR, not an error.
func (s *Server) filter(name string, m *dns.Msg, ipv6 bool) filtered {
	f := filtered{ipv6: ipv6}
	touched := map[rrset]bool{}
	for _, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
		*section = slices.DeleteFunc(*section, func(rr dns.RR) bool {
			drop, changed := s.filterRR(name, rr, &f)
			if changed {
				touched[setOf(rr)] = true
			}
			return drop
		})
	}
	if len(touched) == 0 {
		return f
	}
	f.changed = true
	for _, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
		*section = slices.DeleteFunc(*section, func(rr dns.RR) bool {
			sig, ok := rr.(*dns.RRSIG)
			return ok && touched[rrset{nameOf(sig.Hdr.Name).full, sig.TypeCovered}]
		})
	}
	return f
}

// rrset names the records that one signature covers.
type rrset struct {
	owner string
	rtype uint16
}

func setOf(rr dns.RR) rrset { return rrset{nameOf(rr.Header().Name).full, rr.Header().Rrtype} }

func (s *Server) filterRR(name string, rr dns.RR, f *filtered) (drop, changed bool) {
	switch rr := rr.(type) {
	case *dns.A, *dns.AAAA:
		addr, ok := addressOf(rr)
		drop = !ok || !s.keep(name, addr, f)
		return drop, drop
	case *dns.HTTPS:
		return false, s.filterSVCB(name, &rr.SVCB, f)
	case *dns.SVCB:
		return false, s.filterSVCB(name, rr, f)
	}
	return false, false
}

// keep asks the policy about one address.
func (s *Server) keep(name string, addr netip.Addr, f *filtered) bool {
	if addr.Is6() && !f.ipv6 {
		return false
	}
	if s.Answer == nil {
		return true
	}
	keep, reason := s.Answer(name, addr)
	if !keep {
		if f.addrs++; f.addrs == 1 {
			f.reason = reason
		}
	}
	return keep
}

// filterSVCB takes hints and ECH keys out of one service record (RFC 9460, RFC 9848).
func (s *Server) filterSVCB(name string, svcb *dns.SVCB, f *filtered) (changed bool) {
	gone := map[dns.SVCBKey]bool{}
	svcb.Value = slices.DeleteFunc(svcb.Value, func(kv dns.SVCBKeyValue) bool {
		drop := false
		switch kv := kv.(type) {
		case *dns.SVCBECHConfig:
			drop, changed = s.StripECH, changed || s.StripECH
		case *dns.SVCBIPv4Hint:
			before := len(kv.Hint)
			kv.Hint = s.keepHints(name, kv.Hint, true, f)
			drop, changed = len(kv.Hint) == 0, changed || len(kv.Hint) != before
		case *dns.SVCBIPv6Hint:
			before := len(kv.Hint)
			kv.Hint = s.keepHints(name, kv.Hint, false, f)
			drop, changed = len(kv.Hint) == 0, changed || len(kv.Hint) != before
		}
		if drop {
			gone[kv.Key()], changed = true, true
		}
		return drop
	})
	dropMandatory(svcb, gone)
	return changed
}

// dropMandatory keeps the record well formed: a mandatory key must be there (RFC 9460 section 8).
func dropMandatory(svcb *dns.SVCB, gone map[dns.SVCBKey]bool) {
	svcb.Value = slices.DeleteFunc(svcb.Value, func(kv dns.SVCBKeyValue) bool {
		m, ok := kv.(*dns.SVCBMandatory)
		if !ok {
			return false
		}
		m.Code = slices.DeleteFunc(m.Code, func(k dns.SVCBKey) bool { return gone[k] })
		return len(m.Code) == 0
	})
}

func (s *Server) keepHints(name string, hints []net.IP, v4 bool, f *filtered) []net.IP {
	return slices.DeleteFunc(hints, func(ip net.IP) bool {
		addr, ok := netip.AddrFromSlice(ip)
		if v4 {
			addr = addr.Unmap()
		}
		return !ok || !s.keep(name, addr, f)
	})
}
