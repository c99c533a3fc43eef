//go:build unix

package creds

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// renewal is what client and edge do in the tunnel.
func renewal(s *Store, c *Client) error {
	csr, err := c.CSR()
	if err != nil {
		return err
	}
	chain, err := s.Renew(c.Identity(), csr)
	if err != nil {
		return err
	}
	return c.Install(chain)
}

// TestRenewal: a client that stays gets its next certificate at half of the lifetime, for ever, with one enrolment.
func TestRenewal(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	conf := ClientConfig{Dir: t.TempDir() + "/client", Clock: c.Now}
	enrolled, err := e.enrollIn(t, mustToken(t, e.Store, TokenRequest{}), "laptop", conf)
	if err != nil {
		t.Fatal(err)
	}
	client := enrolled.Client
	for range 5 {
		in := client.RenewAt().Sub(c.Now())
		if in < Lifetime*4/10 || in > Lifetime*6/10 {
			t.Errorf("renews in %v of %v", in, Lifetime)
		}
		c.forward(in)
		before := client.Expires()
		if err := renewal(e.Store, client); err != nil {
			t.Fatal(err)
		}
		if !client.Expires().After(before) {
			t.Errorf("expires at %v, before that at %v", client.Expires(), before)
		}
		if client, err = LoadClient(conf); err != nil { // the process starts again
			t.Fatal(err)
		}
		if _, who, err := connect(t, e.addr, client); err != nil || who != "default/laptop hello" {
			t.Fatalf("connected as %q, %v", who, err)
		}
	}
	records, err := e.Clients()
	if err != nil || len(records) != 1 || records[0].Enrolments != 1 || len(records[0].Issued) > maxIssued {
		t.Errorf("%+v, %v", records, err)
	}
}

// TestRenewalIsSpread: clients that enrolled together do not come back together.
func TestRenewalIsSpread(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	first, last := client.RenewAt(), client.RenewAt()
	for range 200 {
		client.take(client.current())
		if at := client.RenewAt(); at.Before(first) {
			first = at
		} else if at.After(last) {
			last = at
		}
	}
	if spread := last.Sub(first); spread < 2*time.Hour || spread > Lifetime/5 {
		t.Errorf("200 clients renew within %v", spread)
	}
}

// TestRenewalRefused: only the client of the session, with its own key, and not all the time.
func TestRenewalRefused(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	alice, bob := mustEnroll(t, e, TokenRequest{}, "alice", c), mustEnroll(t, e, TokenRequest{}, "bob", c)
	c.forward(renewEvery)
	csr, err := alice.CSR()
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, want tunnel.Code, id tunnel.Identity, csr []byte) {
		t.Helper()
		var got *tunnel.Error
		if _, err := e.Renew(id, csr); !errors.As(err, &got) || got.Code != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	refused("another key", tunnel.Denied, alice.Identity(), other)
	refused("another client's key", tunnel.Denied, bob.Identity(), csr)
	refused("garbage", tunnel.Malformed, alice.Identity(), []byte("garbage"))
	refused("unknown", tunnel.Revoked, tunnel.Identity{Space: "acme", Client: "alice"}, csr)
	chain, err := e.Renew(alice.Identity(), csr)
	if err != nil {
		t.Fatal(err)
	}
	refused("again at once", tunnel.Limit, alice.Identity(), csr)
	if err := bob.Install(chain); err == nil {
		t.Error("bob took what was for alice")
	}
	for n := range chain {
		if err := alice.Install(chain[:n]); err == nil {
			t.Fatalf("%d of %d octets were taken for a chain", n, len(chain))
		}
	}
	if err := alice.Install(chain); err != nil {
		t.Error(err)
	}
	if err := e.Revoke(alice.Identity()); err != nil {
		t.Fatal(err)
	}
	c.forward(renewEvery)
	refused("revoked", tunnel.Revoked, alice.Identity(), csr)
}

// TestFewCertificatesCount: a client that renews as often as it may has no more of them than the bound.
func TestFewCertificatesCount(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	first := *client.Client.snapshotForTest()
	for range maxIssued {
		c.forward(renewEvery)
		if err := renewal(e.Store, client.Client); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := connect(t, e.addr, &first); !errors.Is(err, ErrRejected) {
		t.Errorf("the first of %d certificates: %v", maxIssued+1, err)
	}
	if _, _, err := connect(t, e.addr, client.Client); err != nil {
		t.Error(err)
	}
}

// snapshotForTest is a client that stays with the certificate of now.
func (c *Client) snapshotForTest() *Client {
	old := &Client{clock: c.clock}
	old.take(c.current())
	return old
}

// TestRotation: another authority takes over, and whoever is connected, or comes within the overlap, notices nothing.
func TestRotation(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	away := mustEnroll(t, e, TokenRequest{}, "away", c)
	token := mustToken(t, e.Store, TokenRequest{})
	resets, err := e.Keys()
	if err != nil {
		t.Fatal(err)
	}
	live, _, err := connect(t, e.addr, client.Client)
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.Rotate(false)
	if err != nil || len(list) != 2 || !list[0].Retires.IsZero() || list[1].Retires.Sub(c.Now()) != overlap {
		t.Fatalf("%+v, %v", list, err)
	}
	var rotating *RotatingError
	if _, err := e.Rotate(false); !errors.As(err, &rotating) || !rotating.Until.Equal(list[1].Retires) {
		t.Errorf("a third authority: %v", err)
	}
	if again, err := e.Keys(); err != nil || again != resets {
		t.Errorf("the keys of QUIC have changed, %v", err)
	}

	stillThere := func(when string) {
		t.Helper()
		if who, err := ask(live); err != nil || who != "default/laptop hello" {
			t.Errorf("%s the live connection: %q, %v", when, who, err)
		}
	}
	stillThere("after the rotation")
	if _, _, err := connect(t, e.addr, client.Client); err != nil {
		t.Errorf("a client that knows only the old pin: %v", err)
	}
	if _, err := e.enroll(t, token, "late", c); err != nil {
		t.Errorf("a token from before: %v", err)
	}
	c.forward(client.RenewAt().Sub(c.Now()))
	if err := renewal(e.Store, client.Client); err != nil {
		t.Fatal(err)
	}
	if pins := client.current(); len(pins.pins()) != 2 || pins.pins()[0] != list[0].Pin {
		t.Errorf("the client has learned of %v", pins.pins())
	}
	if _, _, err := connect(t, e.addr, client.Client); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
	c.forward(client.RenewAt().Sub(c.Now()))
	if err := renewal(e.Store, client.Client); err != nil {
		t.Fatal(err)
	}
	c.forward(max(0, list[1].Retires.Sub(c.Now()))) // past the overlap
	if list, err := e.Authorities(); err != nil || len(list) != 1 || list[0].ID != 2 {
		t.Errorf("after the overlap: %+v, %v", list, err)
	}
	stillThere("after the overlap")
	if _, _, err := connect(t, e.addr, client.Client); err != nil {
		t.Errorf("after the overlap: %v", err)
	}
	if _, _, err := connect(t, e.addr, away.Client); err == nil {
		t.Error("a client that was away all the time came in")
	}
	if _, err := e.Rotate(false); err != nil {
		t.Errorf("the next rotation: %v", err)
	}
	if list, err := e.Authorities(); err != nil || len(list) != 2 || list[0].ID != 3 {
		t.Errorf("after the next rotation: %+v, %v", list, err)
	}
}

// TestRotationByHostName: where the server is asked for by the name of its host, in the TLS around a WebSocket, all who may
// know it while a rotation lasts do.
func TestRotationByHostName(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	e := listen(t, s)
	before := mustEnroll(t, e, TokenRequest{}, "before", c)
	if _, err := s.Rotate(false); err != nil {
		t.Fatal(err)
	}
	token := mustToken(t, s, TokenRequest{})
	if read, err := ParseToken(token.Text()); err != nil || read != token || token.Also == (Pin{}) {
		t.Errorf("%v, %v", read, err)
	}
	after := mustEnroll(t, e, TokenRequest{}, "after", c)
	cert, err := s.TLS().GetCertificate(&tls.ClientHelloInfo{ServerName: "edge.example"})
	if err != nil {
		t.Fatal(err)
	}
	var shown tls.ConnectionState
	for _, der := range cert.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		shown.PeerCertificates = append(shown.PeerCertificates, parsed)
	}
	for name, conf := range map[string]*tls.Config{
		"a client from before": before.TLS(), "a client from after": after.TLS(), "a token from after": EnrollTLS(token, c.Now),
	} {
		if err := conf.VerifyConnection(shown); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStolenKeys: after a rotation that waits for nobody the old authority is worth nothing.
func TestStolenKeys(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	token := mustToken(t, e.Store, TokenRequest{})
	if _, err := e.Rotate(false); err != nil {
		t.Fatal(err)
	}
	list, err := e.Rotate(true)
	if err != nil || len(list) != 1 || list[0].ID != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, _, err := connect(t, e.addr, client.Client); !errors.Is(err, ErrPin) {
		t.Errorf("connected: %v", err)
	}
	if err := e.Check(client.Identity()); err == nil {
		t.Error("the client counts")
	}
	if _, err := e.enroll(t, token, "other", c); !errors.Is(err, ErrPin) {
		t.Errorf("a token from before: %v", err)
	}
	c.forward(renewEvery)
	if err := renewal(e.Store, client.Client); err == nil {
		t.Error("renewed by a session from before")
	}
	again := mustEnroll(t, e, TokenRequest{Client: "laptop"}, "", c)
	if _, _, err := connect(t, e.addr, again.Client); err != nil {
		t.Error(err)
	}
}
