package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// edgeAddress is where an edge listens, as --tunnel says.
type edgeAddress struct {
	host, port string

	// roots are whom the TLS around a WebSocket may be vouched for by, beside the edge's own authority; nil are the system's.
	roots *x509.CertPool
}

// trust adds the certificates in a PEM file to the system's, for a proxy that breaks TLS. It changes nothing of who the edge
// is: that is proven inside.
func (e *edgeAddress) trust(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return usageError{fmt.Errorf("--tunnel-ca: %w", err)}
	}
	if e.roots, err = x509.SystemCertPool(); err != nil {
		e.roots = x509.NewCertPool()
	}
	if !e.roots.AppendCertsFromPEM(text) {
		return usageError{fmt.Errorf("--tunnel-ca %s: no certificate in it (PEM, -----BEGIN CERTIFICATE-----)", file)}
	}
	return nil
}

// parseEdge reads https://HOST[:PORT].
func parseEdge(text string) (edgeAddress, error) {
	bad := func(why string) (edgeAddress, error) {
		return edgeAddress{}, usageError{hint(fmt.Errorf("--tunnel %q: %s", text, why), "--tunnel https://HOST:PORT")}
	}
	if text == "" {
		return edgeAddress{}, usageError{hint(errors.New("which edge? --tunnel is missing"), "--tunnel https://HOST:PORT")}
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return bad("not a URL")
	case u.Scheme != "https":
		return bad("want https://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" || u.Opaque != "":
		return bad("want a host and a port, nothing else")
	}
	e := edgeAddress{host: strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), port: u.Port()}
	if e.port == "" {
		e.port = "443"
	}
	if n, err := strconv.ParseUint(e.port, 10, 16); err != nil || n == 0 {
		return bad("want a port from 1 to 65535")
	}
	if _, err := netip.ParseAddr(e.host); err != nil && !isHostName(e.host) {
		return bad("not a host name")
	}
	return e, nil
}

// isHostName takes what DNS and hosts files have: letters, digits, hyphens and underscores between dots.
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func (e edgeAddress) String() string { return net.JoinHostPort(e.host, e.port) }

// url is what --tunnel takes.
func (e edgeAddress) url() string { return "https://" + e.String() }

func (e edgeAddress) tunnelURL() *url.URL { return &url.URL{Scheme: "https", Host: e.String()} }
