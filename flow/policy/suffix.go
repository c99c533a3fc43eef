package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/hostname"
)

// publicSuffix reports whether ICANN's part of the public suffix list has the name, or every name one label below it
// (the list's own wildcards, *.ck), so that a wildcard rule would cover domains of unrelated people.
func publicSuffix(name string) bool {
	if s, icann := publicsuffix.PublicSuffix(name); icann && s == name {
		return true
	}
	below := "weir-probe." + name
	s, icann := publicsuffix.PublicSuffix(below)
	return icann && s == below
}

// warn returns what a person may not have meant about a rule that is allowed.
func warn(r Rule) string {
	switch {
	case r.Target.Kind == SuffixTarget:
		if s, icann := publicsuffix.PublicSuffix(r.Target.Name); !icann && s == r.Target.Name && strings.Contains(s, ".") {
			return fmt.Sprintf("%s is shared: anybody can have a name under %s", r.Target, s)
		}
	case r.Action == AllowRule && r.Target.Name == "@metadata":
		return "@metadata opens nothing: a guarded address is opened only by a rule for exactly that address"
	case r.Action == AllowRule && r.Target.Kind == PrefixTarget && !r.Target.Prefix.IsSingleIP():
		return warnPrefix(r.Target.Prefix)
	}
	return ""
}

// warnPrefix names what a wide CIDR does not open although it covers it.
func warnPrefix(p netip.Prefix) string {
	for _, s := range [...]string{"10.0.0.0", "100.64.0.0", "127.0.0.0", "169.254.0.0", "172.16.0.0", "192.0.0.0", "192.168.0.0", "198.18.0.0", "fc00::", "fe80::"} {
		a := netip.MustParseAddr(s)
		block, _ := guard.Range(a)
		if p.Contains(a) && p.Bits() < block.Bits() {
			return fmt.Sprintf("%s does not open %s, which lies inside it: that needs a rule of its own", p, block)
		}
	}
	return ""
}

// localName reports whether a name can only mean something on a private network: a single label, or a name under a
// suffix that never was and never will be delegated. Everything else is public, the reserved names of documentation and
// tests too: an answer that leads such a name to a private address is a rebinding attack until a rule says otherwise.
func localName(name string) bool {
	i := strings.LastIndexByte(name, '.')
	switch name[i+1:] {
	case "internal", "local", "lan", "home", "corp", "intranet", "private", "localdomain": // RFC 6762 appendix G, ICANN's .internal
		return true
	case "arpa":
		return hostname.Under(name, "home.arpa") // RFC 8375
	}
	return i < 0
}
