package creds

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/weir-dev/weir/tunnel"
)

// maxName bounds the name of a space or client in octets.
const maxName = 63

// CheckName reports why name cannot be that of a space or client: [a-z0-9][a-z0-9._-]{0,62}. The error escapes it.
func CheckName(name string) error {
	ok := name != "" && len(name) <= maxName && !strings.ContainsAny(name[:1], "._-")
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return fmt.Errorf("name %.80q: want 1 to %d of a-z 0-9 . _ -, the first a letter or digit", name, maxName)
	}
	return nil
}

// SafeName makes a name out of what a machine is called, "client" where nothing is left of it.
func SafeName(text string) string {
	text, _, _ = strings.Cut(strings.ToLower(text), ".")
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return -1
	}, text)
	name = strings.TrimLeft(name, "_-")
	if name = name[:min(len(name), maxName)]; name == "" {
		return "client"
	}
	return name
}

// scheme is that of the one name in a client's certificate, weir://SPACE/CLIENT.
const scheme = "weir"

func identityURI(id tunnel.Identity) *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Space, Path: "/" + id.Client}
}

// IdentityOf returns whom the peer's certificate names. It says nothing about whether the handshake was worth anything:
// the connection must be one that [Store.TLS] has let through.
func IdentityOf(cs tls.ConnectionState) (tunnel.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return tunnel.Identity{}, errors.New("identify client: no certificate")
	}
	return identityIn(cs.PeerCertificates[0])
}

// identityIn reads the one URI of a client's certificate.
func identityIn(leaf *x509.Certificate) (tunnel.Identity, error) {
	if len(leaf.URIs) != 1 {
		return tunnel.Identity{}, fmt.Errorf("identify client: %d names in the certificate, want 1", len(leaf.URIs))
	}
	u := leaf.URIs[0]
	id := tunnel.Identity{Space: u.Host, Client: strings.TrimPrefix(u.Path, "/")}
	if err := errors.Join(CheckName(id.Space), CheckName(id.Client)); err != nil || *u != *identityURI(id) {
		return tunnel.Identity{}, fmt.Errorf("identify client: not a name of a client: %.200q", u.String())
	}
	return id, nil
}

// Pin is the SHA-256 of an authority's public key (SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7).
type Pin [sha256.Size]byte

// PinOf returns the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String returns the pin in unpadded base64url.
func (p Pin) String() string { return base64.RawURLEncoding.EncodeToString(p[:]) }

// serverName is what a client that trusts this authority asks for: the edge then answers with a chain of that one.
func (p Pin) serverName() string { return hex.EncodeToString(p[:16]) + ".weir" }

// among reports whether the pin is one of these.
func (p Pin) among(pins []Pin) bool {
	return slices.ContainsFunc(pins, func(q Pin) bool { return subtle.ConstantTimeCompare(p[:], q[:]) == 1 })
}
