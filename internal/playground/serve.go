//go:build linux

package playground

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Listen opens a TCP listener on the internet.
func (w *World) Listen(at netip.AddrPort) (ln net.Listener, err error) {
	if err := w.Address(at.Addr()); err != nil {
		return nil, err
	}
	err = w.Internet(func() error {
		ln, err = net.Listen("tcp", at.String())
		return err
	})
	if err == nil {
		w.onClose(func() { ln.Close() })
	}
	return ln, err
}

// ListenPacket opens a UDP socket on the internet.
func (w *World) ListenPacket(at netip.AddrPort) (pc net.PacketConn, err error) {
	if err := w.Address(at.Addr()); err != nil {
		return nil, err
	}
	err = w.Internet(func() error {
		pc, err = net.ListenPacket("udp", at.String())
		return err
	})
	if err == nil {
		w.onClose(func() { pc.Close() })
	}
	return pc, err
}

// Serve hands every TCP connection to serve, which owns it, on a goroutine of its own.
func (w *World) Serve(at netip.AddrPort, serve func(net.Conn)) error {
	ln, err := w.Listen(at)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return nil
}

// ServeEcho sends back what it gets over TCP, and half-closes when the client does.
func (w *World) ServeEcho(at netip.AddrPort) error {
	return w.Serve(at, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
}

// ServeEchoUDP sends back each datagram.
func (w *World) ServeEchoUDP(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// ServeHTTP serves plain HTTP.
func (w *World) ServeHTTP(at netip.AddrPort, h http.Handler) error {
	ln, err := w.Listen(at)
	if err != nil {
		return err
	}
	go (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute}).Serve(ln)
	return nil
}

// ServeHTTPS serves HTTP/1.1 and HTTP/2 with certificates of the world's authority for whatever name is asked for.
func (w *World) ServeHTTPS(at netip.AddrPort, h http.Handler) error {
	ln, err := w.Listen(at)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, TLSConfig: w.TLSConfig(), ReadHeaderTimeout: time.Minute, ErrorLog: nil}
	go s.ServeTLS(ln, "", "")
	return nil
}

// ServeHTTP3 serves HTTP/3 in the same way.
func (w *World) ServeHTTP3(at netip.AddrPort, h http.Handler) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	s := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(w.TLSConfig()), QUICConfig: &quic.Config{}}
	go s.Serve(pc)
	w.onClose(func() { s.Close() })
	return nil
}

// authority signs for the world.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	issued map[string]*tls.Certificate
}

// CAFile is the authority's certificate, for SSL_CERT_FILE and its kin.
func (w *World) CAFile() string { return filepath.Join(w.Dir, "ca.pem") }

func (w *World) makeAuthority() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir playground"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	w.ca = &authority{cert: cert, key: key, issued: map[string]*tls.Certificate{}}
	return os.WriteFile(w.CAFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// TLSConfig serves every name.
func (w *World) TLSConfig() *tls.Config {
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		name := hello.ServerName
		if name == "" {
			name = "nameless.invalid"
		}
		return w.ca.issue(name)
	}}
}

func (a *authority) issue(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.issued[name]; c != nil {
		return c, nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(a.issued) + 2)), Subject: pkix.Name{CommonName: "playground"}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
	a.issued[name] = c
	return c, nil
}
