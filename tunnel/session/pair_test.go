package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
)

// handler is a Handler of two funcs.
type handler struct {
	dial  func(ctx context.Context, o tunnel.Open) (net.Conn, error)
	query func(ctx context.Context, q tunnel.Query) ([]byte, error)
}

func (h handler) Dial(ctx context.Context, o tunnel.Open) (net.Conn, error) { return h.dial(ctx, o) }

func (h handler) Query(ctx context.Context, q tunnel.Query) ([]byte, error) { return h.query(ctx, q) }

var who = tunnel.Identity{Space: "default", Client: "laptop"}

// certificate is one that nobody has signed: who is who is package creds' matter.
func certificate(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{tunnel.ALPN}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
	}
}

// configs are those of the connection, where a test wants others.
type configs struct {
	edge, client *quic.Config
}

func (c configs) orDefault() configs {
	if c.edge == nil {
		c.edge = QUICConfig(EdgeRole, QUIC, false)
	}
	if c.client == nil {
		c.client = QUICConfig(ClientRole, QUIC, false)
	}
	return c
}

// connected returns both ends of a connection between two sockets, which end with the test.
func connected(t testing.TB, edgeSide, clientSide net.PacketConn, c configs) (edge, client *quic.Conn) {
	t.Helper()
	c = c.orDefault()
	conf := certificate(t)
	to, from := &quic.Transport{Conn: edgeSide}, &quic.Transport{Conn: clientSide}
	t.Cleanup(func() {
		from.Close()
		to.Close()
		clientSide.Close()
		edgeSide.Close()
	})
	listener, err := to.Listen(conf, c.edge)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err = from.Dial(ctx, edgeSide.LocalAddr(), conf, c.client)
	if err != nil {
		t.Fatal(err)
	}
	edge, err = listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return edge, client
}

// loopback returns two sockets.
func loopback(t testing.TB) (a, b net.PacketConn) {
	t.Helper()
	for _, c := range []*net.PacketConn{&a, &b} {
		s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		*c = s
	}
	return a, b
}

// ends are both ends of a session over the loopback interface.
func ends(t testing.TB, h tunnel.Handler) (*Edge, *Client) {
	t.Helper()
	a, b := loopback(t)
	edge, client := connected(t, a, b, configs{})
	return joined(t, edge, client, h)
}

func joined(t testing.TB, edge, client *quic.Conn, h tunnel.Handler) (*Edge, *Client) {
	t.Helper()
	var e *Edge
	accepted := make(chan error, 1)
	go func() {
		var err error
		e, err = Accept(context.Background(), edge, who, EdgeConfig{})
		accepted <- err
	}()
	c, err := Connect(context.Background(), client, h, ClientConfig{Generation: 7, Software: "test", OS: "plan9"})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.CloseWith(tunnel.OK, "")
		c.CloseWith(tunnel.OK, "")
	})
	return e, c
}
