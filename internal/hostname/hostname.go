// Package hostname has the one normal form of a host name in weir.
//
// Names come from hostile first bytes (SNI, Host), from DNS and from people's rules, and one and the same name must
// compare equal wherever it came from. So every name passes through here once, on its way in, and only the normal form
// travels on: to the matcher, to the dialer, to the log. What is not a name is refused, never repaired, because each
// repair is a second spelling that some other parser reads differently.
package hostname

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// Limits of RFC 1035 section 2.3.4, in octets and without the final dot.
const (
	MaxName  = 253
	MaxLabel = 63
)

// ErrIPLiteral says that the text is an IP address, which is not a name but may be judged as an address.
var ErrIPLiteral = errors.New("an IP address is not a host name")

// Normalize returns the normal form of a name from the wire: ASCII lower case, without the final dot, labels of
// letters, digits, hyphens and underscores (RFC 952, RFC 1123 section 2.1; underscores as RFC 8552 uses them).
// Anything else is an error: an empty name, octets outside that set, a label that begins or ends with a hyphen, a last
// label of digits only or of the form 0x... (which URL parsers read as an IPv4 address), and [ErrIPLiteral] for an address.
func Normalize(name string) (string, error) {
	n, err := Labels(name)
	if err != nil {
		return "", err
	}
	if numeric(n[strings.LastIndexByte(n, '.')+1:]) {
		if _, err := netip.ParseAddr(n); err == nil {
			return "", ErrIPLiteral
		}
		return "", fmt.Errorf("host name %q: last label is a number", name)
	}
	return n, nil
}

// Labels is [Normalize] for names that are looked up but need not name a host (the owner names of DNS questions): it does
// not refuse a numeric last label.
func Labels(name string) (string, error) {
	n := strings.TrimSuffix(name, ".")
	if n == "" {
		return "", errors.New("host name is empty")
	}
	if len(n) > MaxName {
		return "", fmt.Errorf("host name is %d octets long, at most %d are allowed", len(n), MaxName)
	}
	if strings.IndexByte(n, ':') >= 0 {
		if _, err := netip.ParseAddr(strings.Trim(n, "[]")); err == nil {
			return "", ErrIPLiteral
		}
	}
	start, upper := 0, false
	for i := 0; i <= len(n); i++ {
		if i < len(n) && n[i] != '.' {
			c := n[i]
			switch {
			case 'A' <= c && c <= 'Z':
				upper = true
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return "", fmt.Errorf("host name %q: octet %#02x at %d is not allowed", name, c, i)
			}
			continue
		}
		if err := label(n[start:i]); err != nil {
			return "", fmt.Errorf("host name %q: %w", name, err)
		}
		start = i + 1
	}
	if upper {
		n = strings.ToLower(n)
	}
	return n, nil
}

// FromUser is [Normalize] for names that a person typed: letters outside ASCII are turned into A-labels first
// (RFC 5891, the lookup profile).
func FromUser(name string) (string, error) {
	for i := 0; i < len(name); i++ {
		if name[i] >= 0x80 {
			a, err := idna.Lookup.ToASCII(name)
			if err != nil {
				return "", fmt.Errorf("host name %q: %w", name, err)
			}
			return Normalize(a)
		}
	}
	return Normalize(name)
}

// Under reports whether name is a sub-domain, at any depth, of suffix; both in normal form. A name is not under itself.
func Under(name, suffix string) bool {
	return len(name) > len(suffix)+1 && name[len(name)-len(suffix)-1] == '.' && strings.HasSuffix(name, suffix)
}

func label(l string) error {
	switch {
	case l == "":
		return errors.New("a label is empty")
	case len(l) > MaxLabel:
		return fmt.Errorf("a label is %d octets long, at most %d are allowed", len(l), MaxLabel)
	case l[0] == '-' || l[len(l)-1] == '-':
		return errors.New("a label begins or ends with a hyphen")
	}
	return nil
}

// numeric reports whether a URL parser would take the label for a part of an IPv4 address (WHATWG URL, "ends in a number").
func numeric(l string) bool {
	if len(l) >= 2 && l[0] == '0' && l[1] == 'x' {
		for i := 2; i < len(l); i++ {
			if c := l[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
		return true
	}
	for i := 0; i < len(l); i++ {
		if l[i] < '0' || l[i] > '9' {
			return false
		}
	}
	return true
}
