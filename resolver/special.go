package resolver

import (
	"net/netip"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

const ruleLocalhost = "builtin:localhost"

// special answers the names that have their answer here, whatever the policy says of them: the sandbox's own loopback
// (RFC 6761 section 6.3), the gateway's names, and names that tell nobody outside anything but that they were asked.
func (s *Server) special(q *dns.Msg, name asked) (outcome, bool) {
	if name.odd {
		return outcome{}, false
	}
	if addrs, rule := s.localAddrs(name.full); rule != "" {
		return s.local(q, name, addrs, rule), true
	}
	if q.Question[0].Qtype == dns.TypePTR {
		if host := s.localHost(q.Question[0].Name); host != "" {
			r := stub.Reply(q, dns.RcodeSuccess)
			r.Answer = []dns.RR{&dns.PTR{Hdr: stub.Header(q, dns.TypePTR), Ptr: host + "."}}
			return outcome{msg: r, verdict: Verdict{Allow: true, Rule: "builtin:local"}}, true
		}
	}
	if rule, reason := s.never(name.full); rule != "" {
		s.counters.blocked.Add(1)
		return outcome{msg: blocked(q), verdict: Verdict{Rule: rule, Reason: reason}}, true
	}
	return outcome{}, false
}

// never says which builtin keeps a name from being asked anywhere. The names by which clients find a resolver of their
// own behind weir's back (RFC 9462, and Firefox's canary) are kept only from those that are held to a policy.
func (s *Server) never(name string) (rule, reason string) {
	switch {
	case isOrUnder(name, "onion"): // RFC 7686
		return "builtin:onion", "dns-blocked"
	case !s.Enforce:
		return "", ""
	case isOrUnder(name, "use-application-dns.net"), isOrUnder(name, "resolver.arpa"):
		return "builtin:resolver-discovery", "encrypted-dns"
	}
	return "", ""
}

func (s *Server) localAddrs(name string) (addrs []netip.Addr, rule string) {
	if isOrUnder(name, "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, ruleLocalhost
	}
	if addrs, ok := s.Local[name]; ok {
		return addrs, "builtin:local"
	}
	return nil, ""
}

// localHost is the name of a reverse question for an address that is named here.
func (s *Server) localHost(reverse string) string {
	arpa := nameOf(reverse).full
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if stub.ReverseName(a) == arpa {
			return "localhost"
		}
	}
	for host, addrs := range s.Local {
		for _, a := range addrs {
			if stub.ReverseName(a) == arpa {
				return host
			}
		}
	}
	return ""
}

func (s *Server) local(q *dns.Msg, name asked, addrs []netip.Addr, rule string) outcome {
	r := stub.Reply(q, dns.RcodeSuccess)
	t := trace{}
	v := Verdict{Allow: true, Rule: rule}
	for _, a := range addrs {
		if a.Is6() && !s.IPv6 {
			continue
		}
		if rr := stub.Address(q, a); rr != nil {
			r.Answer = append(r.Answer, rr)
			t.addrs = append(t.addrs, a)
		}
	}
	if rule == ruleLocalhost {
		t = trace{} // inside it is the sandbox's own loopback; a flow to that address would be one to the host's
	} else if s.Memory != nil {
		v.Route = s.Decide(name.judged, q.Question[0].Qtype).Route
		s.Memory.Learn(s.routeOf(v), name.judged, nil, t.addrs, 0)
	}
	return outcome{msg: r, verdict: v, trace: t}
}
