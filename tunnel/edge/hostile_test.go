package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/wire"
)

// stranger is a TLS configuration with a certificate that the edge has not made.
func stranger(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPN}, MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
}

// TestBadCertificates: a hundred handshakes and more with certificates that do not count, from one address, are refused, most of them
// before anything is computed; meanwhile a client that is connected serves, and one from another address comes in.
func TestBadCertificates(t *testing.T) {
	e := newTestEdge(t)
	one, two := e.enrol(t, "acme", "one"), e.enrol(t, "acme", "two")
	e.connect(t, one, session.ClientConfig{}, &handler{name: "one"})
	bad := stranger(t)
	ctx, cancel := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	for range 4 {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 66)})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: udp}
		attackers.Go(func() {
			defer udp.Close()
			defer tr.Close()
			for ctx.Err() == nil {
				if conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(e.Addr()), bad, session.QUICConfig(session.ClientRole, session.QUIC, false)); err == nil {
					<-conn.Context().Done() // the client's end of TLS 1.3 is done before the edge has seen the certificate
				}
			}
		})
	}
	wait(t, "refusals", func() bool { return e.Counters().HandshakesRefused.Load() > 100 })
	if answer, _, err := e.Sandbox(owner("acme")).Query(t.Context(), tunnel.Query{Message: question}); err != nil {
		t.Errorf("%q, %v answered", answer, err)
	}
	e.connect(t, two, session.ClientConfig{}, &handler{name: "two"})
	cancel()
	attackers.Wait()
	if n := e.Counters().Joined.Load(); n != 2 {
		t.Errorf("%d clients were let in", n)
	}
	if done := e.Counters().Handshakes.Load() - e.Counters().HandshakesRefused.Load(); done > ofOneBurst+ofOneSource*10+10 {
		t.Errorf("%d handshakes were done", done)
	}
}

// TestSilentConnections: a connection that authenticates and then says nothing is closed, and so is one whose first words are
// no greeting.
func TestSilentConnections(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	for name, say := range map[string]func(*quic.Conn){
		"says nothing": func(*quic.Conn) {},
		"says nonsense": func(conn *quic.Conn) {
			s, _ := conn.OpenStream()
			s.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		},
		"has a million routes": func(conn *quic.Conn) {
			s, _ := conn.OpenStream()
			hello := &wire.Hello{Versions: []uint64{wire.Version1}}
			for range wire.MaxRoutes + 1 {
				hello.Routes = append(hello.Routes, wire.Route{Suffix: "x.example"})
			}
			s.Write(wire.AppendMessage(wire.AppendVarint(nil, uint64(wire.Control)), hello))
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := e.Counters().BadHellos.Load()
			conn, err := dialer(t).Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), c.TLS(), session.QUICConfig(session.ClientRole, session.QUIC, false))
			if err != nil {
				t.Fatal(err)
			}
			say(conn)
			select {
			case <-conn.Context().Done():
			case <-time.After(2 * session.HandshakeTimeout):
				t.Fatal("it is open still")
			}
			wait(t, "the count", func() bool { return e.Counters().BadHellos.Load() == before+1 })
		})
	}
	if n := len(e.Clients()); n != 0 {
		t.Errorf("%d clients are connected", n)
	}
}

// TestHostileClient: a client that answers no open, takes no octets and floods with datagrams of flows that there are none of
// keeps another space's sandboxes from nothing, and its own from no more than itself.
func TestHostileClient(t *testing.T) {
	e := newTestEdge(t)
	hangs := func(ctx context.Context, _ tunnel.Open) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	l := e.connectWith(t, e.Addr(), e.enrol(t, "evil", "laptop"), session.ClientConfig{}, &handler{dial: hangs})
	e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{name: "acme"})
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			l.conn.SendDatagram(append(wire.AppendDatagramHeader(nil, 4*uint64(time.Now().Nanosecond()%1000)+1), make([]byte, 1000)...))
		}
	})
	evil, acme := e.Sandbox(owner("evil")), e.Sandbox(owner("acme"))
	for range 100 {
		work.Go(func() {
			if s, err := evil.OpenStream(ctx, tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.1:1")}); err == nil {
				s.Close()
				t.Error("what was never answered has opened")
			}
		})
	}
	to := echo(t)
	for range 20 {
		s, err := acme.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: to})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(s, "hello")
		if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	cancel()
	work.Wait()
}
