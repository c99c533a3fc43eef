//go:build unix

package creds

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// refreshServer is how old the edge's own certificate gets. It is made often, so that a client whose clock is wrong can tell
// from it what time it is at the edge.
const refreshServer = time.Hour

// edgeTLS has the certificates that the edge shows, by the number of the authority.
type edgeTLS struct {
	mu     sync.Mutex
	shown  map[int]*tls.Certificate
	madeAt map[int]time.Time
}

// TLS returns the configuration of an edge's listener, for both protocols: [tunnel.ALPN] asks for a client's certificate and
// takes those that the registry knows, with every handshake and every resumption; [tunnel.EnrollALPN] asks for none, and
// is good for [Store.ServeEnroll] only. The caller tells them apart by NegotiatedProtocol. One configuration serves any
// number of listeners; keep it as long as they live, since it has the keys of the session tickets.
func (s *Store) TLS() *tls.Config {
	base := s.common(tunnel.ALPN)
	base.ClientAuth = tls.RequireAndVerifyClientCert // for the letter of it: GetConfigForClient answers everybody
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, tunnel.EnrollALPN) && !slices.Contains(hello.SupportedProtos, tunnel.ALPN) {
			c := s.common(tunnel.EnrollALPN)
			c.ClientAuth, c.SessionTicketsDisabled = tls.NoClientCert, true
			return c, nil
		}
		st, err := s.load()
		if err != nil {
			s.log.WithError(err).Error("tunnel handshake refused: the keys cannot be read")
			return nil, errors.New("keys cannot be read")
		}
		c := s.common(tunnel.ALPN)
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, st.keys.pool(s.now())
		c.VerifyConnection = s.verify
		return c, nil
	}
	return base
}

func (s *Store) common(alpn string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, Time: s.clock,
		GetCertificate: s.certificate,
	}
}

func (k *keys) pool(now time.Time) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range k.Authorities {
		if a.liveAt(now) {
			pool.AddCert(a.cert)
		}
	}
	return pool
}

// certificate chooses the authority that the client has asked for by its pin. Whoever asks for something else, as the TLS around
// a WebSocket does with the name of the host, is shown the oldest that counts: clients and tokens from before a rotation know
// no other, those from after it know both.
func (s *Store) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	now := s.now()
	by := st.keys.signer()
	for _, a := range st.keys.Authorities {
		if !a.liveAt(now) {
			continue
		}
		by = a
		if PinOf(a.cert).serverName() == hello.ServerName {
			break
		}
	}
	return s.tls.of(by, now)
}

// of returns a certificate by the authority that is not too old.
func (e *edgeTLS) of(a *authority, now time.Time) (*tls.Certificate, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if age := now.Sub(e.madeAt[a.ID]); e.shown[a.ID] != nil && age >= 0 && age < refreshServer {
		return e.shown[a.ID], nil
	}
	cert, err := a.serve(now)
	if err != nil {
		return nil, err
	}
	if e.shown == nil {
		e.shown, e.madeAt = map[int]*tls.Certificate{}, map[int]time.Time{}
	}
	e.shown[a.ID], e.madeAt[a.ID] = cert, now
	return cert, nil
}

// verify looks the client up, when a connection is new and when one is resumed. That its certificate was signed by one of ours
// and has not expired has been seen to by crypto/tls.
func (s *Store) verify(cs tls.ConnectionState) error {
	_, err := s.Admit(cs)
	return err
}

// Admission is by what a client has come in: one of its enrolments.
type Admission struct {
	tunnel.Identity
	Enrolment int
}

// Admit says who has come in over a connection that [Store.TLS] let through, and by which enrolment, for [Store.Counts].
func (s *Store) Admit(cs tls.ConnectionState) (Admission, error) {
	id, err := IdentityOf(cs)
	if err != nil {
		return Admission{}, err
	}
	st, err := s.load()
	if err != nil {
		return Admission{}, errors.New("keys cannot be read") // no way in without the registry
	}
	now, leaf := s.now(), cs.PeerCertificates[0]
	c := st.registry.byName[id]
	if c == nil || !c.Revoked.IsZero() {
		return Admission{}, fmt.Errorf("client %s: not enrolled, or revoked", id)
	}
	known := slices.ContainsFunc(c.Issued, func(i Issued) bool {
		a := st.keys.live(i.Authority, now)
		return i.Serial == serialOf(leaf) && now.Before(i.Expires) && a != nil && leaf.CheckSignatureFrom(a.cert) == nil
	})
	if !known {
		return Admission{}, fmt.Errorf("client %s: this certificate does not count any more", id)
	}
	return Admission{id, c.Enrolments}, nil
}

// Counts reports whether a client that has come in may stay: not when it was revoked since, has let its last certificate
// expire, or has enrolled again, which may have been another machine. Nothing is read here, so that it can be asked for each
// flow; while [Store.Watch] runs, what it goes by is at most as old as its interval. The error is a *tunnel.Error.
func (s *Store) Counts(a Admission) error {
	st := s.state.Load()
	if c := st.registry.byName[a.Identity]; c == nil || c.Enrolments != a.Enrolment || !c.live(st.keys, s.now()) {
		return tunnel.Errorf(tunnel.Revoked, "")
	}
	return nil
}
