//go:build unix

package creds

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/tunnel"
)

// The bounds of enrolment, which anybody may try who reaches the listener.
const (
	enrolTime     = 10 * time.Second // from the handshake to the last octet
	enrolAtOnce   = 32
	failBurst     = 5                // failed attempts of one source (an IPv4 address, an IPv6 /64)
	failEvery     = 10 * time.Second // how soon it may fail once more
	failBurstAll  = 100              // of all sources together
	failEveryAll  = 100 * time.Millisecond
	maxSources    = 4096 // that are remembered; with more, all that are not count as one
	enrolledClose = 2 * time.Second
)

// EnrolStats count attempts to enrol since the store was opened.
type EnrolStats struct{ Granted, Refused, Limited uint64 }

// enrolments bounds who may try.
type enrolments struct {
	granted, refused, limited atomic.Uint64
	running                   atomic.Int32

	mu      sync.Mutex
	all     *rate.Limiter
	others  *rate.Limiter
	sources map[netip.Prefix]*rate.Limiter
}

// EnrolStats returns the counts.
func (s *Store) EnrolStats() EnrolStats {
	return EnrolStats{s.enrols.granted.Load(), s.enrols.refused.Load(), s.enrols.limited.Load()}
}

// ServeEnroll answers one connection that has agreed on [tunnel.EnrollALPN], and closes it. from is where it comes from, as
// far as the caller knows: a connection by WebSocket has another address than the peer's. The error is for the log of the
// edge; the peer has been told what it may know. It says nothing about a token's secret.
func (s *Store) ServeEnroll(ctx context.Context, conn *quic.Conn, from netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTime)
	defer cancel()
	defer conn.CloseWithError(quic.ApplicationErrorCode(tunnel.OK), "")
	stop := context.AfterFunc(ctx, func() { conn.CloseWithError(quic.ApplicationErrorCode(tunnel.TimedOut), "") })
	defer stop()
	if conn.ConnectionState().TLS.NegotiatedProtocol != tunnel.EnrollALPN {
		return errors.New("enrol client: another protocol")
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return fmt.Errorf("enrol client: %w", err)
	}
	b, err := readMessage(stream)
	var id tunnel.Identity
	answer := &enrolAnswer{refusal: RefusedRequest}
	if err == nil {
		answer, id, err = s.enrol(b, from)
	}
	answer.at = s.now()
	if _, werr := stream.Write(answer.encode()); werr != nil {
		err = errors.Join(err, werr)
	}
	stream.Close()
	select { // what is closed at once is not delivered: the client closes
	case <-conn.Context().Done():
	case <-time.After(enrolledClose):
	}
	if err != nil {
		return fmt.Errorf("enrol client from %v: %w", from, err)
	}
	s.log.WithField("client", id.String()).Info("client enrolled")
	return nil
}

// enrol judges a request. The error says why it was refused.
func (s *Store) enrol(b []byte, from netip.Addr) (*enrolAnswer, tunnel.Identity, error) {
	refuse := func(why Refusal, err error) (*enrolAnswer, tunnel.Identity, error) {
		return &enrolAnswer{refusal: why}, tunnel.Identity{}, err
	}
	if s.enrols.running.Add(1) > enrolAtOnce || !s.enrols.mayTry(from, s.clock()) {
		s.enrols.running.Add(-1)
		s.enrols.limited.Add(1)
		return refuse(RefusedBusy, RefusedBusy)
	}
	defer s.enrols.running.Add(-1)
	answer, id, err := s.grant(b)
	if err == nil {
		s.enrols.granted.Add(1)
		return answer, id, nil
	}
	s.enrols.refused.Add(1)
	s.enrols.failed(from, s.clock())
	var why Refusal
	switch {
	case errors.As(err, &why):
	case errors.Is(err, errVersion):
		why = RefusedVersion
	case errors.Is(err, errMalformed):
		why = RefusedRequest
	default:
		why = RefusedInternal
	}
	return refuse(why, err)
}

func (s *Store) grant(b []byte) (*enrolAnswer, tunnel.Identity, error) {
	var id tunnel.Identity
	r, err := parseRequest(b)
	if err != nil {
		return nil, id, err
	}
	st, err := s.load()
	if err != nil {
		return nil, id, err
	}
	if _, err := st.registry.token(r, s.now()); err != nil { // without the lock, which is not for those who only guess
		return nil, id, err
	}
	key, err := requestKey(r.request)
	if err != nil {
		return nil, id, fmt.Errorf("%w: %w", RefusedRequest, err)
	}
	answer := &enrolAnswer{}
	err = s.update(func(st *state, now time.Time) error {
		t, err := st.registry.token(r, now)
		if err != nil {
			return err
		}
		c, err := st.registry.enrolled(t, r.name, key, now)
		if err != nil {
			return err
		}
		t.Used = now
		id, answer.name = c.Identity(), c.Client
		answer.chain, err = st.certify(c, key, now)
		return err
	})
	return answer, id, err
}

// token returns the token of a request. Whoever has the secret is told what is wrong with it; to all others there is none, and
// the same work is done whether there is one of that id or not.
func (r *registry) token(req *enrolRequest, now time.Time) (*tokenRecord, error) {
	found := &tokenRecord{Hash: make([]byte, 32)}
	i := slices.IndexFunc(r.Tokens, func(t *tokenRecord) bool { return t.ID == req.token })
	if i >= 0 {
		found = r.Tokens[i]
	}
	brought := Token{secret: req.secret}
	switch {
	case subtle.ConstantTimeCompare(brought.hash(), found.Hash) != 1 || i < 0:
		return nil, RefusedToken
	case !found.Used.IsZero():
		return nil, RefusedUsed
	case !now.Before(found.Expires):
		return nil, RefusedExpired
	}
	return found, nil
}

// enrolled returns the record of the client that the token makes, with its new key. The token's name counts for more than
// the one that is wished for. A name whose certificates count, or that
// was revoked after the token was made, is only for a token that was made for it.
func (r *registry) enrolled(t *tokenRecord, wished string, key any, now time.Time) (*Record, error) {
	print, err := keyPrint(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", RefusedRequest, err)
	}
	id := tunnel.Identity{Space: t.Space, Client: t.Client}
	if id.Client == "" {
		id.Client = wished
	}
	if id.Client == "" {
		id.Client = "client"
	}
	c := r.byName[id]
	switch {
	case c == nil:
		if err := r.room(now); err != nil {
			return nil, err
		}
		c = &Record{Space: id.Space, Client: id.Client, Created: now}
		r.add(c)
	case !c.Revoked.IsZero() && !c.Revoked.Before(t.Created):
		return nil, fmt.Errorf("%w: %s was revoked after the token was made", RefusedName, id)
	case !c.Revoked.IsZero() && bytes.Equal(c.Key, print):
		return nil, fmt.Errorf("%w: the key of %s was revoked", RefusedRequest, id)
	case c.Revoked.IsZero() && now.Before(c.Expires) && t.Client == "":
		return nil, fmt.Errorf("%w: %s is in use", RefusedName, id)
	}
	c.Key, c.Issued, c.Revoked = print, nil, time.Time{}
	c.Enrolments++
	return c, nil
}

// source is what counts as one: whoever has an IPv6 address has some 2^64 of them.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}

// mayTry reports whether this source has an attempt left.
func (e *enrolments) mayTry(from netip.Addr, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		return true
	}
	l := e.sources[source(from)]
	if l == nil {
		l = e.others
	}
	return e.all.TokensAt(now) >= 1 && l.TokensAt(now) >= 1
}

// failed counts an attempt that did.
func (e *enrolments) failed(from netip.Addr, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = rate.NewLimiter(rate.Every(failEveryAll), failBurstAll)
		e.others = rate.NewLimiter(rate.Every(failEvery), failBurst)
		e.sources = map[netip.Prefix]*rate.Limiter{}
	}
	e.all.AllowN(now, 1)
	key := source(from)
	l := e.sources[key]
	if l == nil && len(e.sources) >= maxSources {
		e.forget(now)
	}
	switch {
	case l != nil:
	case len(e.sources) < maxSources:
		l = rate.NewLimiter(rate.Every(failEvery), failBurst)
		e.sources[key] = l
	default:
		l = e.others
	}
	l.AllowN(now, 1)
}

// forget drops the sources that have not failed for long.
func (e *enrolments) forget(now time.Time) {
	for key, l := range e.sources {
		if l.TokensAt(now) >= failBurst {
			delete(e.sources, key)
		}
	}
}
