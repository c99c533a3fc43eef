package resolver

import (
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
)

// asked is the name of a question in the forms that the pipeline needs.
type asked struct {
	full   string // lower case, without the final dot; presentation form with escapes when odd
	judged string // full without leading _service._proto labels: what the policy judges and evidence binds
	odd    bool   // no name that a policy could be written for: the root, spaces, escapes
}

// nameOf reads a domain name in presentation form, as miekg/dns unpacks it.
func nameOf(wire string) asked {
	full, err := hostname.Labels(wire)
	if err != nil {
		odd := strings.ToLower(strings.TrimSuffix(wire, "."))
		return asked{full: odd, judged: odd, odd: true}
	}
	return asked{full: full, judged: hostname.Owner(full)}
}

// isOrUnder reports whether name is domain or below it; both in normal form.
func isOrUnder(name, domain string) bool { return name == domain || hostname.Under(name, domain) }

func typeName(t uint16) string { return dns.Type(t).String() }

// rcodeName is the name of a response code, RCODE and a number for those without one.
func rcodeName(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // miekg/dns has the TSIG name of the same number
	}
	if n, ok := dns.RcodeToString[rcode]; ok {
		return n
	}
	return "RCODE" + itoa(rcode)
}
