package sniff

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weir-dev/weir/internal/hostname"
)

// These tests compare with other parsers: where a server finds a name, the sniffer finds the same one or says that the
// claim is malformed. It never finds none, and never another.

// oneWay is a connection whose peer has sent all it will.
type oneWay struct {
	net.Conn
	in io.Reader
}

func (c oneWay) Read(b []byte) (int, error)     { return c.in.Read(b) }
func (oneWay) Write(b []byte) (int, error)      { return len(b), nil }
func (oneWay) Close() error                     { return nil }
func (oneWay) SetDeadline(time.Time) error      { return nil }
func (oneWay) SetReadDeadline(time.Time) error  { return nil }
func (oneWay) SetWriteDeadline(time.Time) error { return nil }

// tlsServerName is the name that a crypto/tls server finds; ok is false when it finds no hello.
func tlsServerName(in []byte) (name string, alpn []string, ok bool) {
	stop := errors.New("seen enough")
	config := &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		name, alpn, ok = info.ServerName, info.SupportedProtos, true
		return nil, stop
	}}
	_ = tls.Server(oneWay{in: bytes.NewReader(in)}, config).Handshake()
	return name, alpn, ok
}

// sameClaim says that the hint has the host that a server found, or none because it is malformed.
func sameClaim(t *testing.T, h Hint, status Status, host string) {
	t.Helper()
	if status != Done {
		t.Fatalf("%v, but a server finds %q", status, host)
	}
	if h.Malformed != "" {
		return
	}
	name, err := hostname.Normalize(host)
	switch {
	case host == "":
		if h.Host != "" || h.HostIP.IsValid() {
			t.Fatalf("%+v, but a server finds no name", h)
		}
	case errors.Is(err, hostname.ErrIPLiteral):
		ip, _ := netip.ParseAddr(strings.Trim(strings.TrimSuffix(host, "."), "[]"))
		if h.HostIP != ip {
			t.Fatalf("%+v, but a server finds %q", h, host)
		}
	case err != nil || name != h.Host:
		t.Fatalf("%+v, but a server finds %q", h, host)
	}
}

func sameAsTLS(t *testing.T, in []byte) {
	t.Helper()
	name, alpn, ok := tlsServerName(in)
	if !ok || len(in) > MaxStream {
		return
	}
	hint, status := feed(string(in))
	sameClaim(t, hint, status, name)
	if hint.Malformed == "" && strings.Join(alpn[:min(len(alpn), MaxALPN)], "\x00") != strings.Join(hint.ALPN, "\x00") {
		t.Fatalf("ALPN %q, but a server finds %q", hint.ALPN, alpn)
	}
}

func sameAsHTTP(t *testing.T, in []byte) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil || len(in) > MaxStream || r.Method == "PRI" {
		return
	}
	hint, status := feed(string(in))
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	sameClaim(t, hint, status, strings.TrimSuffix(host, ":"))
}

// sameAsH2 compares with the framer of x/net/http2.
func sameAsH2(t *testing.T, in []byte) {
	t.Helper()
	body, ok := bytes.CutPrefix(in, []byte(h2Preface))
	if !ok || len(in) > MaxStream {
		return
	}
	framer := http2.NewFramer(io.Discard, bytes.NewReader(body))
	framer.ReadMetaHeaders = hpack.NewDecoder(h2TableSize, nil)
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		meta, ok := f.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		hint, status := feed(string(in))
		host := meta.PseudoValue("authority")
		for _, field := range meta.RegularFields() {
			if field.Name == "host" && host == "" {
				host = field.Value
			}
		}
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		sameClaim(t, hint, status, strings.TrimSuffix(host, ":"))
		return
	}
}

func TestSamplesAsServersReadThem(t *testing.T) {
	found := 0
	for _, s := range allSamples() {
		t.Run(s.name, func(t *testing.T) {
			sameAsTLS(t, []byte(s.in))
			sameAsHTTP(t, []byte(s.in))
			sameAsH2(t, []byte(s.in))
		})
		if _, _, ok := tlsServerName([]byte(s.in)); ok {
			found++
		}
	}
	if found < 10 {
		t.Fatalf("crypto/tls found a hello in %d samples", found)
	}
}

// FuzzAgainstServers feeds the same bytes to the servers of the standard library.
func FuzzAgainstServers(f *testing.F) {
	for _, s := range allSamples() {
		if len(s.in) < 4096 {
			f.Add([]byte(s.in))
		}
	}
	f.Add(realHello(f, realConfig()))
	f.Fuzz(func(t *testing.T, in []byte) {
		sameAsTLS(t, in)
		sameAsHTTP(t, in)
		sameAsH2(t, in)
	})
}
