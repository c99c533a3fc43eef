//go:build unix

package creds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestResumption: a session that is resumed spares the certificates, not the question whether they count.
func TestResumption(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, e *testEdge, c *clock)
		want error
	}{
		{"revoked", func(t *testing.T, e *testEdge, _ *clock) {
			if err := e.Revoke(tunnel.Identity{Space: "default", Client: "laptop"}); err != nil {
				t.Fatal(err)
			}
		}, ErrRejected},
		{"enrolled again", func(t *testing.T, e *testEdge, c *clock) {
			mustEnroll(t, e, TokenRequest{Client: "laptop"}, "", c)
		}, ErrRejected},
		{"authority dropped", func(t *testing.T, e *testEdge, _ *clock) {
			if _, err := e.Rotate(true); err != nil {
				t.Fatal(err)
			}
		}, ErrPin},
		{"expired", func(_ *testing.T, _ *testEdge, c *clock) { c.forward(Lifetime + time.Second) }, ErrExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClock()
			e := listen(t, openStore(t, c))
			client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
			conf := client.TLS() // one cache of sessions for all that follows
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			visit := func() (resumed bool, who string, err error) {
				conn, err := dial(t, e.addr, conf)
				if err != nil {
					return false, "", Explain(err)
				}
				defer conn.CloseWithError(0, "")
				who, err = ask(conn)
				return conn.ConnectionState().TLS.DidResume, who, Explain(err)
			}
			if resumed, who, err := visit(); err != nil || resumed || who != "default/laptop hello" {
				t.Fatalf("first: %v %q %v", resumed, who, err)
			}
			if resumed, who, err := visit(); err != nil || !resumed || who != "default/laptop hello" {
				t.Fatalf("second: resumed %v, %q, %v", resumed, who, err)
			}
			test.end(t, e, c)
			if _, who, err := visit(); !errors.Is(err, test.want) {
				t.Errorf("resumed after the end: %q, %v, want %v", who, err, test.want)
			}
			if _, _, err := connect(t, e.addr, client.Client); !errors.Is(err, test.want) {
				t.Errorf("anew after the end: %v, want %v", err, test.want)
			}
		})
	}
}

// TestOnlyEnrolledClients: what is not a certificate that the registry knows, by an authority of ours, for a client, does not
// come in; and a connection for enrolment is none for the tunnel.
func TestOnlyEnrolledClients(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	e := listen(t, s)
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	st, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := newAuthority(1, c.Now())
	if err != nil {
		t.Fatal(err)
	}
	signed := func(by *authority) tls.Certificate {
		leaf, err := by.signClient(client.Identity(), key.Public(), c.Now())
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}
	server, err := st.keys.signer().serve(c.Now())
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*tls.Config)) error {
		conf := client.TLS()
		conf.ClientSessionCache = nil
		change(conf)
		conn, err := dial(t, e.addr, conf)
		if err != nil {
			return Explain(err)
		}
		defer conn.CloseWithError(0, "")
		who, err := ask(conn)
		if err == nil {
			t.Logf("the edge takes it for %q", who)
		}
		return Explain(err)
	}
	if err := with(func(*tls.Config) {}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tls.Config){
		"none":                             func(c *tls.Config) { c.Certificates = nil },
		"by a foreign authority":           func(c *tls.Config) { c.Certificates = []tls.Certificate{signed(foreign)} },
		"by ours, but never given out":     func(c *tls.Config) { c.Certificates = []tls.Certificate{signed(st.keys.signer())} },
		"the edge's own":                   func(c *tls.Config) { c.Certificates = []tls.Certificate{*server} },
		"none, offering enrolment as well": func(c *tls.Config) { c.Certificates, c.NextProtos = nil, []string{tunnel.EnrollALPN, tunnel.ALPN} },
		"TLS 1.2 and no protocol of ours":  func(c *tls.Config) { c.NextProtos = []string{"h3"} },
	} {
		if err := with(change); err == nil {
			t.Errorf("certificate %s: let in", name)
		}
	}
	conn, err := dial(t, e.addr, EnrollTLS(mustToken(t, s, TokenRequest{}), c.Now))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	if answer, err := ask(conn); err == nil {
		if a, err := parseAnswer([]byte(answer)); err != nil || a.refusal == 0 {
			t.Errorf("a connection for enrolment is answered %q", answer)
		}
	}
}

// TestNoClientIsAnEdge: a client's certificate is by the same authority as the edge's, and does not make its owner the edge.
func TestNoClientIsAnEdge(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	e := listen(t, s)
	mallory, alice := mustEnroll(t, e, TokenRequest{}, "mallory", c), mustEnroll(t, e, TokenRequest{}, "alice", c)
	cr := mallory.current()
	l := listenQUIC(t, &tls.Config{
		NextProtos:   []string{tunnel.ALPN, tunnel.EnrollALPN},
		Certificates: []tls.Certificate{{Certificate: [][]byte{cr.leaf.Raw, cr.authorities[0].Raw}, PrivateKey: cr.key}},
	})
	if _, err := dial(t, l.Addr().String(), alice.TLS()); !errors.Is(Explain(err), ErrPin) {
		t.Errorf("connect: %v", err)
	}
	if _, err := dial(t, l.Addr().String(), EnrollTLS(mustToken(t, s, TokenRequest{}), c.Now)); !errors.Is(Explain(err), ErrPin) {
		t.Errorf("enroll: %v", err)
	}
}

// TestExpired: a certificate that has expired is worth nothing, and both ends say so.
func TestExpired(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	conf := ClientConfig{Dir: t.TempDir() + "/client", Clock: c.Now}
	client, err := e.enrollIn(t, mustToken(t, e.Store, TokenRequest{}), "laptop", conf)
	if err != nil {
		t.Fatal(err)
	}
	c.forward(Lifetime - time.Second)
	if _, _, err := connect(t, e.addr, client.Client); err != nil {
		t.Errorf("a second before: %v", err)
	}
	c.forward(2 * time.Second)
	if _, _, err := connect(t, e.addr, client.Client); !errors.Is(err, ErrExpired) {
		t.Errorf("a second after: %v", err)
	}
	if _, err := LoadClient(conf); !errors.Is(err, ErrExpired) {
		t.Errorf("load: %v", err)
	}
	if err := e.Check(client.Identity()); err == nil {
		t.Error("the registry says that it counts")
	}
	again, err := e.enrollIn(t, mustToken(t, e.Store, TokenRequest{}), "laptop", conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := connect(t, e.addr, again.Client); err != nil {
		t.Errorf("after another enrolment: %v", err)
	}
}

// TestClockSkew: a client whose clock is wrong hears that it is the clock, and what time it is at the edge.
func TestClockSkew(t *testing.T) {
	at := newClock()
	e := listen(t, openStore(t, at))
	token := mustToken(t, e.Store, TokenRequest{})
	for _, skew := range []time.Duration{-time.Hour, -10 * time.Minute, 30 * time.Hour, 365 * 24 * time.Hour} {
		wrong := &clock{now: at.Now().Add(skew)}
		_, err := e.enroll(t, token, "laptop", wrong)
		var clock *ClockError
		if !errors.As(err, &clock) {
			t.Errorf("%v: %v", skew, err)
			continue
		}
		if d := clock.Edge.Sub(at.Now()).Abs(); d > refreshServer || !clock.Local.Equal(wrong.Now()) {
			t.Errorf("%v: %v, where the edge has %v", skew, clock, at.Now())
		}
	}
	for _, skew := range []time.Duration{-4 * time.Minute, 3 * time.Hour} {
		wrong := &clock{now: at.Now().Add(skew)}
		client, err := e.enroll(t, mustToken(t, e.Store, TokenRequest{}), "laptop"+SafeName(skew.String()), wrong)
		if err != nil {
			t.Fatalf("%v: %v", skew, err)
		}
		if d := (client.Skew - skew).Abs(); d > time.Second {
			t.Errorf("%v: taken for %v", skew, client.Skew)
		}
		if _, _, err := connect(t, e.addr, client.Client); err != nil {
			t.Errorf("%v: %v", skew, err)
		}
	}
}

// TestHandshakeFits: what both ends say of themselves is small enough for QUIC: the chain within a few packets, and with the
// key exchange that is safe from quantum computers.
func TestHandshakeFits(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	conn, _, err := connect(t, e.addr, client.Client)
	if err != nil {
		t.Fatal(err)
	}
	cs := conn.ConnectionState().TLS
	size := 0
	for _, p := range cs.PeerCertificates {
		size += len(p.Raw)
	}
	if cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || size > 1200 {
		t.Errorf("version %x, curve %v, %d octets of certificates", cs.Version, cs.CurveID, size)
	}
}
