//go:build unix

package creds

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// The time that a token can live.
const (
	DefaultTTL = 15 * time.Minute
	MaxTTL     = 7 * 24 * time.Hour
)

// TokenRequest says what a token is for.
type TokenRequest struct {
	Space  string        // empty: tunnel.DefaultSpace
	Client string        // the one name that it is for; empty: any that is not in use
	TTL    time.Duration // 0: DefaultTTL; at most MaxTTL
}

// NewToken makes a token. The store keeps its hash only: this is the one time that anybody sees it.
func (s *Store) NewToken(r TokenRequest) (Token, error) {
	if r.Space == "" {
		r.Space = tunnel.DefaultSpace
	}
	if r.TTL == 0 {
		r.TTL = DefaultTTL
	}
	if err := CheckName(r.Space); err != nil {
		return Token{}, fmt.Errorf("make token: space: %w", err)
	}
	if r.Client != "" {
		if err := CheckName(r.Client); err != nil {
			return Token{}, fmt.Errorf("make token: client: %w", err)
		}
	}
	if r.TTL < time.Second || r.TTL > MaxTTL {
		return Token{}, fmt.Errorf("make token: time to live %v: want 1s to %v", r.TTL, MaxTTL)
	}
	var t Token
	err := s.update(func(st *state, now time.Time) error {
		open := 0
		for _, t := range st.registry.Tokens {
			if t.usable(now) {
				open++
			}
		}
		if open >= MaxTokens {
			return fmt.Errorf("%d tokens are waiting to be used, the most that there can be", MaxTokens)
		}
		t = newToken(st.keys.pins(now)...)
		st.registry.Tokens = append(st.registry.Tokens, &tokenRecord{
			ID: t.ID, Hash: t.hash(), Space: r.Space, Client: r.Client, Created: now, Expires: now.Add(r.TTL),
		})
		return nil
	})
	if err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return t, nil
}

// Clients returns the records of all clients by space and name, those that are revoked or have expired too. They are copies.
func (s *Store) Clients() ([]Record, error) {
	st, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	list := make([]Record, 0, len(st.registry.Clients))
	for _, c := range st.registry.Clients {
		r := *c
		r.Key, r.Issued = bytes.Clone(c.Key), slices.Clone(c.Issued)
		list = append(list, r)
	}
	return list, nil
}

// Waiting is what may be known of a token that can still be used.
type Waiting struct {
	ID      string    `json:"id"`
	Space   string    `json:"space"`
	Client  string    `json:"client,omitempty"`
	Expires time.Time `json:"expires"`
}

// Waiting returns the tokens that can still be used.
func (s *Store) Waiting() ([]Waiting, error) {
	st, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var list []Waiting
	for _, t := range st.registry.Tokens {
		if t.usable(s.now()) {
			list = append(list, Waiting{t.ID, t.Space, t.Client, t.Expires})
		}
	}
	return list, nil
}

// Authority is what may be known of one authority.
type Authority struct {
	ID      int
	Pin     Pin
	Retires time.Time // zero for the one that signs
}

// Authorities returns those that count now, the one that signs first.
func (s *Store) Authorities() ([]Authority, error) {
	st, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("list authorities: %w", err)
	}
	return st.keys.authorities(s.now()), nil
}

func (k *keys) authorities(now time.Time) (list []Authority) {
	for _, a := range k.Authorities {
		if a.liveAt(now) {
			list = append(list, Authority{a.ID, PinOf(a.cert), a.Retires})
		}
	}
	return list
}

// ErrNoClient is what there is to say about a name that never enrolled.
var ErrNoClient = errors.New("no such client")

// Revoke ends all certificates of a client, and the tokens that are for its name, which need not have enrolled yet. It may be
// called again.
func (s *Store) Revoke(id tunnel.Identity) error {
	err := s.update(func(st *state, now time.Time) error {
		void := st.registry.void(func(t *tokenRecord) bool { return t.Space == id.Space && t.Client == id.Client })
		c := st.registry.byName[id]
		if c == nil && void == 0 {
			return ErrNoClient
		}
		if c != nil && c.Revoked.IsZero() {
			c.Revoked = now
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("revoke %s: %w", id, err)
	}
	return nil
}

// Rotate makes another authority, which signs from now on, and returns all that count. The others stay until what they have
// signed has expired; connections stay. With drop the others end at once, for when their keys are known to somebody:
// all clients need a token then, and one from before is void: whoever has such a key may have had it shown to him.
func (s *Store) Rotate(drop bool) ([]Authority, error) {
	var list []Authority
	var at time.Time
	err := s.locked(func(st *state) (string, any, error) {
		now := s.now()
		at = now
		if n := len(st.keys.authorities(now)); n > 1 && !drop {
			return "", nil, &RotatingError{Until: st.keys.lastRetires()}
		}
		err := st.keys.rotate(now, drop)
		list = st.keys.authorities(now)
		return keysFile, st.keys, err
	})
	if err == nil && drop {
		err = s.update(func(st *state, _ time.Time) error {
			st.registry.void(func(t *tokenRecord) bool { return !t.Created.After(at) })
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	return list, nil
}

// RotatingError says that there is a rotation under way: with a third authority chains and pins would not end to grow.
type RotatingError struct{ Until time.Time }

func (e *RotatingError) Error() string {
	return "the last rotation lasts until " + e.Until.Format(time.RFC3339)
}

func (k *keys) lastRetires() (t time.Time) {
	for _, a := range k.Authorities {
		if a.Retires.After(t) {
			t = a.Retires
		}
	}
	return t
}

// renewEvery is how often at most a client gets a certificate: each one is a write to the disk.
const renewEvery = time.Minute

// Renew makes the next certificate of a client that is in the tunnel, as [IdentityOf] says, out of its request: leaf and
// authorities, for [Client.Install]. The key must be the one that it enrolled with. Errors are or wrap a *tunnel.Error.
func (s *Store) Renew(id tunnel.Identity, request []byte) ([]byte, error) {
	key, err := requestKey(request)
	if err != nil {
		return nil, tunnel.Errorf(tunnel.Malformed, "%v", err)
	}
	print, err := keyPrint(key)
	if err != nil {
		return nil, tunnel.Errorf(tunnel.Malformed, "%v", err)
	}
	var chain []byte
	st, err := s.load()
	if err == nil {
		_, err = st.renewable(id, print, s.now()) // without the lock, which is not for those who ask too often
	}
	if err == nil {
		err = s.update(func(st *state, now time.Time) error {
			c, err := st.renewable(id, print, now)
			if err == nil {
				chain, err = st.certify(c, key, now)
			}
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", id, err)
	}
	return chain, nil
}

// renewable returns the record of a client that may have another certificate for the key now.
func (st *state) renewable(id tunnel.Identity, print []byte, now time.Time) (*Record, error) {
	c := st.registry.byName[id]
	switch {
	case c == nil || !c.live(st.keys, now):
		return nil, tunnel.Errorf(tunnel.Revoked, "the certificate does not count any more")
	case !bytes.Equal(c.Key, print):
		return nil, tunnel.Errorf(tunnel.Denied, "not the key that the client enrolled with")
	case now.Sub(c.Renewed) < renewEvery:
		return nil, tunnel.Errorf(tunnel.Limit, "one certificate each %v", renewEvery)
	}
	return c, nil
}

// certify signs a key for a client, and notes it.
func (st *state) certify(c *Record, key any, now time.Time) ([]byte, error) {
	by := st.keys.signer()
	leaf, err := by.signClient(c.Identity(), key, now)
	if err != nil {
		return nil, err
	}
	c.issue(Issued{Serial: serialOf(leaf), Authority: by.ID, Expires: leaf.NotAfter}, now)
	return append(leaf.Raw, st.keys.bundle(now)...), nil
}

// Check reports whether some certificate of the client counts, by what was last read of the files. The error is a *tunnel.Error.
func (s *Store) Check(id tunnel.Identity) error {
	st := s.state.Load()
	if c := st.registry.byName[id]; c == nil || !c.live(st.keys, s.now()) {
		return tunnel.Errorf(tunnel.Revoked, "")
	}
	return nil
}
