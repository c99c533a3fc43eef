package hostname

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/idna"
)

func TestNormalize(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ name, in, want string }{
		{"plain", "api.example.com", "api.example.com"},
		{"case", "API.Example.COM", "api.example.com"},
		{"one final dot", "example.com.", "example.com"},
		{"underscore labels", "_dmarc.example.com", "_dmarc.example.com"},
		{"single label", "localhost", "localhost"},
		{"longest label", long + ".example", long + ".example"},
		{"A-label", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"digits inside", "1.2.3.example", "1.2.3.example"},

		{"empty", "", ""},
		{"root", ".", ""},
		{"two final dots", "example.com..", ""},
		{"empty label", "a..b", ""},
		{"leading dot", ".example.com", ""},
		{"NUL", "good.example\x00.evil.example", ""},
		{"space", "a b.example", ""},
		{"brackets", "[example.com]", ""},
		{"userinfo", "user@example.com", ""},
		{"port", "example.com:443", ""},
		{"newline", "a.example\n", ""},
		{"not ASCII", "bücher.example", ""},
		{"hyphen first", "-a.example", ""},
		{"hyphen last", "a-.example", ""},
		{"label too long", long + "a.example", ""},
		{"name too long", strings.Repeat("a.", 130) + "example", ""},
		{"dotted quad", "127.0.0.1", ""},
		{"decimal address", "2130706433", ""},
		{"hex last label", "127.0.0.0x1", ""},
		{"IPv6", "::1", ""},
		{"IPv6 with zone", "fe80::1%lo", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Normalize(c.in)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Fatalf("Normalize(%q) = %q, %v; want %q", c.in, got, err, c.want)
			}
		})
	}
	for _, in := range []string{"127.0.0.1", "::1", "[::1]", "fe80::1%lo"} {
		if _, err := Normalize(in); !errors.Is(err, ErrIPLiteral) {
			t.Errorf("Normalize(%q) = %v, want ErrIPLiteral", in, err)
		}
	}
}

func TestFromUser(t *testing.T) {
	if got, err := FromUser("Bücher.example"); err != nil || got != "xn--bcher-kva.example" {
		t.Fatalf("FromUser = %q, %v", got, err)
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		name, suffix string
		want         bool
	}{
		{"x.a.com", "a.com", true}, {"y.x.a.com", "a.com", true},
		{"a.com", "a.com", false}, {"nota.com", "a.com", false}, {"a.com.evil", "a.com", false}, {".a.com", "a.com", false},
	} {
		if got := Under(c.name, c.suffix); got != c.want {
			t.Errorf("Under(%q, %q) = %v", c.name, c.suffix, got)
		}
	}
}

// FuzzNormalize holds the two laws that matchers and logs lean on: the normal form is its own normal form, and it has
// nothing in it but what may be printed.
func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"a.example", "A.EXAMPLE.", "1.2.3.4", "0x7f.1", "_x._tcp.a", "\x00", "[::1]", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Normalize(s)
		if err != nil {
			return
		}
		if again, err := Normalize(n); err != nil || again != n {
			t.Fatalf("Normalize(%q) = %q, whose own form is %q, %v", s, n, again, err)
		}
		if strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			t.Fatalf("Normalize(%q) = %q", s, n)
		}
	})
}

// FuzzAgainstParsers compares with what other parsers make of the same text. A name of ours is never an address to them,
// and it is the same name: a URL's host, and for IDNA a name that is in its ASCII form already.
func FuzzAgainstParsers(f *testing.F) {
	for _, s := range []string{"a.example", "A.EXAMPLE.", "1.2.3.4", "0x7f.1", "0177.0.0.1", "2130706433", "a.1e1", "xn--bcher-kva.example", "a_b.example", "ab--c.example", "::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Normalize(s)
		if addr, bad := netip.ParseAddr(s); bad == nil && err == nil {
			t.Fatalf("%q is %s to netip, the name %q to us", s, addr, n)
		}
		if err != nil {
			return
		}
		if addr, err := netip.ParseAddr(n); err == nil {
			t.Fatalf("Normalize(%q) = %q, the address %s", s, n, addr)
		}
		if u, err := url.Parse("http://" + n + "/"); err != nil || u.Hostname() != n {
			t.Fatalf("Normalize(%q) = %q, in a URL %v, %v", s, n, u, err)
		}
		if strings.Contains(n, "_") || strings.Contains(n, "--") {
			return // IDNA has rules for these that DNS has not
		}
		if ascii, err := idna.Lookup.ToASCII(n); err != nil || ascii != n {
			t.Fatalf("Normalize(%q) = %q, to IDNA %q, %v", s, n, ascii, err)
		}
	})
}
