//go:build unix

package creds

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/tunnel"
)

// TestTokens: a token is good once, for its time, for its space and its name; and whoever guesses learns nothing.
func TestTokens(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))

	used := mustToken(t, e.Store, TokenRequest{})
	if _, err := e.enroll(t, used, "first", c); err != nil {
		t.Fatal(err)
	}
	expired := mustToken(t, e.Store, TokenRequest{TTL: time.Minute})
	c.forward(time.Minute)
	wrong := mustToken(t, e.Store, TokenRequest{})
	wrong.secret[0] ^= 1
	unknown := newToken(wrong.Pin)
	unknown.secret = wrong.secret
	usedWrong := used
	usedWrong.secret[31] ^= 1

	c.forward(time.Hour) // the failures below are no more than a source has
	for _, test := range []struct {
		name  string
		token Token
		want  Refusal
	}{
		{"used", used, RefusedUsed}, {"expired", expired, RefusedExpired}, {"wrong secret", wrong, RefusedToken},
		{"unknown id", unknown, RefusedToken}, {"used, with a wrong secret", usedWrong, RefusedToken},
	} {
		var got Refusal
		if _, err := e.enroll(t, test.token, "second", c); !errors.As(err, &got) || got != test.want {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if stats := e.EnrolStats(); stats != (EnrolStats{Granted: 1, Refused: 5}) {
		t.Errorf("counted %+v", stats)
	}
}

// TestTokenIsForItsSpace: the space and the name are those that the token was made with, whatever the client would like.
func TestTokenIsForItsSpace(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	for _, test := range []struct {
		request      TokenRequest
		wished, want string
	}{
		{TokenRequest{}, "laptop", "default/laptop"},
		{TokenRequest{Space: "acme"}, "laptop", "acme/laptop"},
		{TokenRequest{Space: "acme", Client: "build-1"}, "laptop", "acme/build-1"},
		{TokenRequest{Space: "acme"}, "", "acme/client"},
	} {
		client := mustEnroll(t, e, test.request, test.wished, c)
		if got := client.Identity().String(); got != test.want {
			t.Errorf("enrolled as %s, want %s", got, test.want)
		}
		if _, who, err := connect(t, e.addr, client.Client); err != nil || who != test.want+" hello" {
			t.Errorf("connected as %q, %v", who, err)
		}
	}
}

// TestNamesInUse: a name whose certificate counts is taken by none but a token that is for it; a revoked one by none that was
// made before.
func TestNamesInUse(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	laptop := tunnel.Identity{Space: tunnel.DefaultSpace, Client: "laptop"}
	first := mustEnroll(t, e, TokenRequest{}, "laptop", c)

	other := mustToken(t, e.Store, TokenRequest{})
	if _, err := e.enroll(t, other, "laptop", c); !errors.Is(err, RefusedName) {
		t.Errorf("the name of a live client: %v", err)
	}
	if _, err := e.enroll(t, other, "desktop", c); err != nil {
		t.Errorf("a token is used up by a name that was taken: %v", err)
	}
	c.forward(time.Second)
	mustEnroll(t, e, TokenRequest{Client: "laptop"}, "", c)
	if _, _, err := connect(t, e.addr, first.Client); !errors.Is(err, ErrRejected) {
		t.Errorf("a certificate of the same name before: %v", err)
	}

	before, forName := mustToken(t, e.Store, TokenRequest{}), mustToken(t, e.Store, TokenRequest{Client: "laptop"})
	c.forward(time.Second)
	if err := e.Revoke(laptop); err != nil {
		t.Fatal(err)
	}
	if _, err := e.enroll(t, before, "laptop", c); !errors.Is(err, RefusedName) {
		t.Errorf("a revoked name, with a token from before: %v", err)
	}
	if _, err := e.enroll(t, forName, "", c); !errors.Is(err, RefusedToken) {
		t.Errorf("a token for the name that was revoked: %v", err)
	}
	c.forward(time.Second)
	again := mustEnroll(t, e, TokenRequest{}, "laptop", c)
	if _, who, err := connect(t, e.addr, again.Client); err != nil || who != "default/laptop hello" {
		t.Errorf("a revoked name, with a new token: %q, %v", who, err)
	}
	c.forward(Lifetime)
	mustEnroll(t, e, TokenRequest{}, "laptop", c) // an expired name is free
	if err := e.Revoke(tunnel.Identity{Space: "acme", Client: "laptop"}); !errors.Is(err, ErrNoClient) {
		t.Errorf("revoke in another space: %v", err)
	}
}

// TestWrongPin: a server that is not the token's edge never sees the secret.
func TestWrongPin(t *testing.T) {
	c := newClock()
	e, other := listen(t, openStore(t, c)), openStore(t, c)
	token := mustToken(t, other, TokenRequest{})
	if _, err := e.enroll(t, token, "laptop", c); !errors.Is(err, ErrPin) {
		t.Errorf("enrolled at another edge: %v", err)
	}
	if stats := e.EnrolStats(); stats != (EnrolStats{}) {
		t.Errorf("the other edge was asked: %+v", stats)
	}
	client := mustEnroll(t, listen(t, other), TokenRequest{}, "laptop", c)
	if _, _, err := connect(t, e.addr, client.Client); !errors.Is(err, ErrPin) {
		t.Errorf("connected to another edge: %v", err)
	}
}

// request makes a certificate request by hand.
func request(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestRequests: of a certificate request the key counts, if it is a good one, and nothing else.
func TestRequests(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	boss, _ := url.Parse("weir://acme/boss")
	greedy := request(t, key, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "boss"}, URIs: []*url.URL{boss}, DNSNames: []string{"edge.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA: true
	})
	token := mustToken(t, s, TokenRequest{})
	answer, id, err := s.enrol((&enrolRequest{token: token.ID, secret: token.secret, name: "laptop", request: greedy}).encode(), netip.Addr{})
	if err != nil || id.String() != "default/laptop" {
		t.Fatalf("%v, %v", id, err)
	}
	certs, err := x509.ParseCertificates(answer.chain)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certs[0]
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "weir://default/laptop" || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.Subject.Names) != 0 ||
		leaf.NotAfter.Sub(c.Now()) != Lifetime || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("the certificate says more than it should: %v %v %v %v", leaf.URIs, leaf.DNSNames, leaf.Subject, leaf.ExtKeyUsage)
	}

	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := request(t, key, &x509.CertificateRequest{})
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	for name, bad := range map[string][]byte{
		"RSA": request(t, weak, &x509.CertificateRequest{}), "P-224": request(t, curve, &x509.CertificateRequest{}),
		"not signed by its key": forged, "garbage": []byte("garbage"), "cut off": good[:len(good)-8],
	} {
		token := mustToken(t, s, TokenRequest{})
		answer, _, err := s.enrol((&enrolRequest{token: token.ID, secret: token.secret, name: "other", request: bad}).encode(), netip.MustParseAddr("192.0.2."+fmt.Sprint(len(bad)%250)))
		if err == nil || answer.refusal != RefusedRequest {
			t.Errorf("%s: %v, %v", name, answer.refusal, err)
		}
	}
}

// TestRevokedKeyStaysRevoked: a key that was revoked does not come back under its name with a new token.
func TestRevokedKeyStaysRevoked(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	_, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	enrol := func() Refusal {
		token := mustToken(t, s, TokenRequest{})
		answer, _, _ := s.enrol((&enrolRequest{token: token.ID, secret: token.secret, name: "laptop", request: csr}).encode(), netip.Addr{})
		return answer.refusal
	}
	if r := enrol(); r != 0 {
		t.Fatal(r)
	}
	if err := s.Revoke(tunnel.Identity{Space: "default", Client: "laptop"}); err != nil {
		t.Fatal(err)
	}
	c.forward(time.Second)
	if r := enrol(); r != RefusedRequest {
		t.Errorf("a revoked key: %v", r)
	}
}

// TestGuessing: who fails too often has to wait, and nobody else has; the number of sources that are remembered is bounded.
func TestGuessing(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	_, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	guess := func(from string) Refusal {
		token := newToken(Pin{})
		answer, _, _ := s.enrol((&enrolRequest{token: token.ID, secret: token.secret, name: "x", request: csr}).encode(), netip.MustParseAddr(from))
		return answer.refusal
	}
	for range failBurst {
		if r := guess("2001:db8::1"); r != RefusedToken {
			t.Fatal(r)
		}
	}
	for _, from := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"} {
		if r := guess(from); r != RefusedBusy {
			t.Errorf("%s after %d failures of its network: %v", from, failBurst, r)
		}
	}
	token := mustToken(t, s, TokenRequest{})
	good := (&enrolRequest{token: token.ID, secret: token.secret, name: "x", request: csr}).encode()
	if answer, _, _ := s.enrol(good, netip.MustParseAddr("2001:db8::1")); answer.refusal != RefusedBusy {
		t.Errorf("a good token from a source that has to wait: %v", answer.refusal)
	}
	if answer, _, err := s.enrol(good, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Errorf("a good token from elsewhere: %v, %v", answer.refusal, err)
	}
	if s.EnrolStats().Limited != 4 {
		t.Errorf("counted %+v", s.EnrolStats())
	}
	c.forward(failEvery)
	if r := guess("2001:db8::1"); r != RefusedToken {
		t.Errorf("after %v: %v", failEvery, r)
	}

	busy := 0
	for i := range failBurstAll + 50 { // from a thousand places
		if guess(fmt.Sprintf("198.51.%d.%d", i/250, i%250)) == RefusedBusy {
			busy++
		}
	}
	if busy == 0 {
		t.Error("all sources together are not bounded")
	}
	for i := range 2 * maxSources {
		c.forward(failEveryAll)
		guess(fmt.Sprintf("10.%d.%d.1", i/250, i%250))
		if n := len(s.enrols.sources); n > maxSources {
			t.Fatalf("%d sources are remembered", n)
		}
	}
}

// TestEnrolmentIsBounded: a connection on which nothing comes, or too much, is ended.
func TestEnrolmentIsBounded(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	l := listenQUIC(t, s.TLS())
	token := mustToken(t, s, TokenRequest{})
	serve := func(patience time.Duration) (*quic.Conn, <-chan error) {
		done := make(chan error, 1)
		go func() {
			conn, err := l.Accept(t.Context())
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				err = s.ServeEnroll(ctx, conn, netip.Addr{})
			}
			done <- err
		}()
		conn, err := dial(t, l.Addr().String(), EnrollTLS(token, c.Now))
		if err != nil {
			t.Fatal(err)
		}
		return conn, done
	}
	ended := func(conn *quic.Conn, done <-chan error) error {
		err := <-done
		<-conn.Context().Done()
		return err
	}

	if err := ended(serve(50 * time.Millisecond)); err == nil {
		t.Error("no stream at all: no error")
	}
	conn, done := serve(50 * time.Millisecond)
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	stream.Write([]byte{1})
	if err := ended(conn, done); err == nil {
		t.Error("one octet, and no more: no error")
	}
	conn, done = serve(10 * time.Second)
	if stream, err = conn.OpenStream(); err != nil {
		t.Fatal(err)
	}
	stream.Write(make([]byte, maxMessage+100))
	b, err := readMessage(stream)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := parseAnswer(b); err != nil || a.refusal != RefusedRequest {
		t.Errorf("a message without end is answered by %+v, %v", a, err)
	}
	conn.CloseWithError(0, "")
	if err := ended(conn, done); !errors.Is(err, errMalformed) {
		t.Errorf("a message without end: %v", err)
	}
}

// TestNoSecretIsTold: neither errors nor the log of either side have any of a token's secret, nor of a key.
func TestNoSecretIsTold(t *testing.T) {
	c := newClock()
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log)
	logger.SetLevel(logrus.TraceLevel)
	s, err := OpenStore(StoreConfig{Dir: t.TempDir() + "/edge", Create: true, Clock: c.Now, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	e := listen(t, s)
	token := mustToken(t, s, TokenRequest{})
	told := ""
	for range 2 { // once granted, once refused
		_, err := e.enroll(t, token, "laptop", c)
		told += fmt.Sprintln(err)
	}
	conn, err := dial(t, e.addr, EnrollTLS(token, c.Now)) // and once with a broken message that holds it
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(stream, "\x01%s", token.Text())
	stream.Close()
	answer, err := readMessage(stream)
	told += fmt.Sprintf("%s %v", answer, err)
	conn.CloseWithError(0, "")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e.mu.Lock()
		n := len(e.errs)
		e.mu.Unlock()
		if n == 2 {
			break
		}
	}
	e.mu.Lock()
	told += fmt.Sprintln(e.errs)
	e.mu.Unlock()
	told += log.String()
	if !strings.Contains(told, "enrolled") || !strings.Contains(told, "malformed") {
		t.Errorf("nothing of it was told:\n%s", told)
	}
	secret := strings.Split(token.Text(), ".")[2]
	if strings.Contains(told, secret) || strings.Contains(told, fmt.Sprintf("%x", token.secret[:])) || strings.Contains(told, "PRIVATE") {
		t.Errorf("a secret is in:\n%s", told)
	}
}
