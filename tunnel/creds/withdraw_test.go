//go:build unix

package creds

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// bring has the store judge a token, whatever authority the edge shows.
func bring(t *testing.T, s *Store, token Token) (tunnel.Identity, error) {
	t.Helper()
	_, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	_, id, err := s.enrol((&enrolRequest{token: token.ID, secret: token.secret, name: "thief", request: csr}).encode(), netip.MustParseAddr("192.0.2.1"))
	return id, err
}

// TestTokensEndWithStolenKeys: whoever has an authority's key can pass for the edge towards those who bring a token of its, and
// learn that; it is worth nothing when the authority has ended.
func TestTokensEndWithStolenKeys(t *testing.T) {
	s := openStore(t, newClock())
	before := []Token{mustToken(t, s, TokenRequest{}), mustToken(t, s, TokenRequest{Client: "laptop"})}
	if _, err := s.Rotate(true); err != nil {
		t.Fatal(err)
	}
	for _, token := range before {
		if id, err := bring(t, s, token); err == nil {
			t.Errorf("a token from before made %v a client", id)
		}
	}
	if list, err := s.Waiting(); err != nil || len(list) != 0 {
		t.Errorf("tokens that wait: %v, %v", list, err)
	}
	if _, err := bring(t, s, mustToken(t, s, TokenRequest{})); err != nil {
		t.Errorf("a token from after: %v", err)
	}
}

// TestRevokeBeforeEnrolment: a name for which there is only a token is revoked as well.
func TestRevokeBeforeEnrolment(t *testing.T) {
	s := openStore(t, newClock())
	laptop := tunnel.Identity{Space: tunnel.DefaultSpace, Client: "laptop"}
	token := mustToken(t, s, TokenRequest{Client: "laptop"})
	if err := s.Revoke(laptop); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if id, err := bring(t, s, token); err == nil {
		t.Errorf("the token made %v a client", id)
	}
	if err := s.Revoke(laptop); !errors.Is(err, ErrNoClient) {
		t.Errorf("revoke what is not there: %v", err)
	}
}

// TestRenewTooOften: a client that asks for certificates without end has nothing locked or written for it.
func TestRenewTooOften(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	e := listen(t, s)
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	if err := os.Remove(s.path(lockName)); err != nil {
		t.Fatal(err)
	}
	if err := renewal(s, client.Client); tunnel.CodeOf(err) != tunnel.Limit {
		t.Errorf("at once: %v", err)
	}
	if s.has(lockName) {
		t.Error("the lock was taken")
	}
	c.forward(renewEvery)
	if err := renewal(s, client.Client); err != nil {
		t.Errorf("after %v: %v", renewEvery, err)
	}
}
