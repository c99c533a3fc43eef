//go:build linux

package websocket

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take that happens at all.
const patience = time.Minute

const testALPN = "test"

// authority is a CA with one server certificate.
type authority struct {
	pool *x509.CertPool
	cert tls.Certificate
	ca   *x509.Certificate
}

// newAuthority makes a CA that says the names are its server's.
func newAuthority(t testing.TB, names ...string) authority {
	t.Helper()
	sign := func(template, parent *x509.Certificate, pub, priv any) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, priv)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := x509.ParseCertificate(der)
		return c
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, leafKey := key(), key()
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = sign(ca, ca, &caKey.PublicKey, caKey)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, n)
		}
	}
	leaf = sign(leaf, ca, &leafKey.PublicKey, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return authority{pool, tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: leafKey}, ca}
}

// edge is a QUIC listener that echoes streams, with a server in front of it.
type edge struct {
	*Server
	authority
	quic *quic.Listener
	url  *url.URL
}

// quicConfig is what both ends have.
func quicConfig() *quic.Config {
	return &quic.Config{MaxIdleTimeout: 30 * time.Second, KeepAlivePeriod: time.Second, EnableDatagrams: true,
		InitialStreamReceiveWindow: 1 << 20, MaxStreamReceiveWindow: 8 << 20, InitialConnectionReceiveWindow: 4 << 20, MaxConnectionReceiveWindow: 16 << 20}
}

// newEdge starts one; serve gets its connections, nil for echoing.
func newEdge(t testing.TB, cfg ServerConfig, serve func(*quic.Conn)) *edge {
	t.Helper()
	e := &edge{authority: newAuthority(t, "127.0.0.1", "edge.example")}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: udp}
	e.quic, err = tr.Listen(&tls.Config{Certificates: []tls.Certificate{e.cert}, NextProtos: []string{testALPN}}, quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	if serve == nil {
		serve = echo
	}
	go func() {
		for {
			c, err := e.quic.Accept(context.Background())
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	cfg.QUIC = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	e.Server = NewServer(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- e.Serve(l, &tls.Config{Certificates: []tls.Certificate{e.cert}}) }()
	e.url = &url.URL{Scheme: "https", Host: l.Addr().String()}
	t.Cleanup(func() {
		e.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		e.quic.Close()
		tr.Close()
		udp.Close()
	})
	return e
}

// echo gives each stream back.
func echo(c *quic.Conn) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			io.Copy(s, s)
			s.Close()
		}()
	}
}

// dial opens a WebSocket to e.
func (e *edge) dial(t testing.TB, change func(*DialConfig)) *Conn {
	t.Helper()
	c, err := e.tryDial(change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (e *edge) tryDial(change func(*DialConfig)) (*Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := DialConfig{URL: e.url, Roots: e.pool, Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}
	if change != nil {
		change(&cfg)
	}
	return Dial(ctx, cfg)
}

// quicOver opens a QUIC connection to e over pc.
func (e *edge) quicOver(t testing.TB, pc net.PacketConn, addr net.Addr) *quic.Conn {
	t.Helper()
	tr := &quic.Transport{Conn: pc}
	cfg := quicConfig()
	cfg.InitialPacketSize = InitialPacketSize
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := tr.Dial(ctx, addr, &tls.Config{RootCAs: e.pool, ServerName: "edge.example", NextProtos: []string{testALPN}}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseWithError(0, "")
		pc.Close()
		tr.Close()
	})
	return c
}

// sessions waits until e has n of them.
func (e *edge) sessions(t testing.TB, n int) {
	t.Helper()
	for end := time.Now().Add(patience); e.Len() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d sessions, want %d", e.Len(), n)
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }
