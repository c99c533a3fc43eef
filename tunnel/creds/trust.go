package creds

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
)

// TLS returns the configuration for the next connection to the edge: make one for each, because a renewal changes it.
func (c *Client) TLS() *tls.Config {
	c.mu.Lock()
	cr, sessions := c.now, c.sessions
	c.mu.Unlock()
	conf := trusting(tunnel.ALPN, cr.pins(), c.clock)
	conf.ClientSessionCache = sessions
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{cr.leaf.Raw}, PrivateKey: cr.key, Leaf: cr.leaf}}
	return conf
}

// EnrollTLS returns the configuration for a connection on which to bring a token. clock nil is time.Now.
func EnrollTLS(t Token, clock func() time.Time) *tls.Config {
	if clock == nil {
		clock = time.Now
	}
	return trusting(tunnel.EnrollALPN, t.pins(), clock)
}

// trusting takes the edge for who it is by the pin of its authority, and by nothing else: InsecureSkipVerify turns off the
// system's roots and the host name, VerifyConnection takes their place, on resumption too.
func trusting(alpn string, pins []Pin, clock func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, Time: clock,
		ServerName: pins[0].serverName(), InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error { return verifyEdge(cs, pins, clock()) },
	}
}

// ErrPin says that whoever answers is not the edge that the token, or the enrolment, was for.
var ErrPin = errors.New("the server is not the edge that the token is of")

// ClockError says that this machine's clock and that of the edge do not agree.
type ClockError struct {
	Local time.Time
	Edge  time.Time // as far as it can be told: within the hour
}

func (e *ClockError) Error() string {
	return fmt.Sprintf("this machine's clock says %s, at the edge it is about %s", e.Local.UTC().Format(time.RFC3339), e.Edge.UTC().Format(time.RFC3339))
}

// verifyEdge takes a chain of two: the certificate of the edge, and an authority with one of the pins.
func verifyEdge(cs tls.ConnectionState, pins []Pin, now time.Time) error {
	if len(cs.PeerCertificates) != 2 {
		return fmt.Errorf("%w: a chain of %d certificates", ErrPin, len(cs.PeerCertificates))
	}
	leaf, authority := cs.PeerCertificates[0], cs.PeerCertificates[1]
	switch {
	case !PinOf(authority).among(pins):
		return ErrPin
	case !authority.IsCA || leaf.CheckSignatureFrom(authority) != nil:
		return fmt.Errorf("%w: its certificate is not by its authority", ErrPin)
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || leaf.VerifyHostname(PinOf(authority).serverName()) != nil:
		return fmt.Errorf("%w: its certificate is not a server's", ErrPin)
	case now.Before(leaf.NotBefore), now.After(leaf.NotAfter):
		return &ClockError{Local: now, Edge: leaf.NotBefore.Add(backdate)}
	}
	return nil
}

// ErrRejected says that the edge does not take the client's certificate any more, though it has not expired.
var ErrRejected = errors.New("the edge does not accept this machine's credentials: they were revoked, or its authority was replaced")

// The alerts by which a TLS server refuses a certificate (RFC 8446 section 6.2).
const (
	alertBadCertificate     = 42
	alertCertificateRevoked = 44
	alertCertificateExpired = 45
	alertUnknownCA          = 48
	alertAccessDenied       = 49
	alertCertificateMissing = 116
)

// Explain says in words of ours how the connection to an edge ended, where credentials were the reason: the error is or wraps
// one of [ErrRejected], [ErrExpired], [ErrPin] and [*ClockError]. All of them stay until somebody does something. Any other
// error is returned as it is. The client learns of a refusal only after the handshake, with what it does first.
func Explain(err error) error {
	var crypto *quic.TransportError
	if !errors.As(err, &crypto) || !crypto.ErrorCode.IsCryptoError() {
		var app *quic.ApplicationError
		if errors.As(err, &app) && app.Remote && tunnel.Code(app.ErrorCode) == tunnel.Revoked {
			return fmt.Errorf("%w (%w)", ErrRejected, err)
		}
		return err
	}
	var clock *ClockError
	if errors.Is(err, ErrPin) || errors.As(err, &clock) || !crypto.Remote {
		return err
	}
	switch crypto.ErrorCode & 0xff {
	case alertCertificateExpired:
		return fmt.Errorf("%w (%w)", ErrExpired, err)
	case alertBadCertificate, alertCertificateRevoked, alertUnknownCA, alertAccessDenied, alertCertificateMissing:
		return fmt.Errorf("%w (%w)", ErrRejected, err)
	}
	return err
}
