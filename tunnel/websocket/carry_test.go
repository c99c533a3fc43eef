//go:build linux

package websocket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestCarries: a QUIC connection through a WebSocket carries streams whole in both directions at once, the edge sees who is
// behind it, and both learn at once of its end.
func TestCarries(t *testing.T) {
	ended := make(chan Session, 1)
	accepted := make(chan *quic.Conn, 1)
	e := newEdge(t, ServerConfig{Ended: func(s Session) { ended <- s }}, func(c *quic.Conn) {
		accepted <- c
		echo(c)
	})
	var tcp net.Conn
	ws := e.dial(t, func(cfg *DialConfig) {
		cfg.DialContext = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			tcp, err = new(net.Dialer).DialContext(ctx, network, addr)
			return tcp, err
		}
	})
	c := e.quicOver(t, ws, ws.RemoteAddr())
	sameBytes(t, c, 3<<20)

	session, ok := e.Lookup((<-accepted).RemoteAddr())
	if !ok || session.Remote != addrPort(tcp.LocalAddr()) || !session.Local.Addr().IsLoopback() {
		t.Errorf("Lookup = %v, %v; the client is %v", session, ok, tcp.LocalAddr())
	}
	if _, ok := e.Lookup(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}); ok {
		t.Error("a session that nobody has")
	}
	if s := ws.Stats(); s.Sent == 0 || s.Received == 0 || s.Messages == 0 || s.Messages >= s.Sent {
		t.Errorf("%+v: packets do not share messages", s)
	}
	tcp.Close()
	select {
	case <-c.Context().Done():
	case <-time.After(patience):
		t.Error("the client's QUIC connection outlives its WebSocket")
	}
	select {
	case s := <-ended:
		if s != session {
			t.Errorf("%v has ended, want %v", s, session)
		}
	case <-time.After(patience):
		t.Error("the edge was not told")
	}
	if _, ok := e.Lookup(net.UDPAddrFromAddrPort(session.Local)); ok {
		t.Error("the session is still known")
	}
	if ws.Err() == nil {
		t.Error("a broken connection has no error")
	}
}

// sameBytes sends n octets over a stream and takes them back.
func sameBytes(t testing.TB, c *quic.Conn, n int64) {
	t.Helper()
	s, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(patience))
	want, got := sha256.New(), sha256.New()
	go func() {
		io.Copy(io.MultiWriter(s, want), io.LimitReader(rand.NewChaCha8([32]byte{1}), n))
		s.Close()
	}()
	back, err := io.Copy(got, s)
	if back != n || err != nil || !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		t.Fatalf("%d of %d octets came back, %v", back, n, err)
	}
}

// TestClose: what was queued before Close arrives, and everything fails in its own way afterwards.
func TestClose(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	ws := e.dial(t, nil)
	e.quicOver(t, ws, ws.RemoteAddr())
	if err := ws.Close(); err != nil {
		t.Error(err)
	}
	if err := ws.Close(); err != nil {
		t.Error("second Close:", err)
	}
	if !errors.Is(ws.Err(), net.ErrClosed) {
		t.Errorf("Err = %v", ws.Err())
	}
	if _, _, err := ws.ReadFrom(make([]byte, MaxPacket)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom = %v", err)
	}
	if _, err := ws.WriteTo([]byte{1}, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo = %v", err)
	}
	e.sessions(t, 0)
}

// TestFarewell: QUIC's own end, sent right before Close, reaches the edge.
func TestFarewell(t *testing.T) {
	said := make(chan error, 1)
	e := newEdge(t, ServerConfig{}, func(c *quic.Conn) {
		echo(c)
		<-c.Context().Done()
		said <- context.Cause(c.Context())
	})
	ws := e.dial(t, nil)
	c := e.quicOver(t, ws, ws.RemoteAddr())
	sameBytes(t, c, 1) // until then the edge has not accepted it
	c.CloseWithError(42, "bye")
	ws.Close()
	select {
	case err := <-said:
		var app *quic.ApplicationError
		if !errors.As(err, &app) || app.ErrorCode != 42 {
			t.Errorf("the edge was told %v", err)
		}
	case <-time.After(patience):
		t.Error("the edge was told nothing")
	}
}

// TestReadDeadline: a deadline ends ReadFrom, whether set before or during it, and not the connection.
func TestReadDeadline(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	ws := e.dial(t, nil)
	for name, set := range map[string]func(){
		"passed":  func() { ws.SetReadDeadline(time.Now().Add(-time.Second)) },
		"passing": func() { ws.SetReadDeadline(time.Now().Add(time.Millisecond)) },
		"late": func() {
			ws.SetReadDeadline(time.Time{})
			time.AfterFunc(time.Millisecond, func() { ws.SetReadDeadline(time.Now()) })
		},
	} {
		set()
		if _, _, err := ws.ReadFrom(make([]byte, MaxPacket)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ws.SetDeadline(time.Time{})
	sameBytes(t, e.quicOver(t, ws, ws.RemoteAddr()), 1000)
}

// TestTargets: which URLs are taken, and where they lead.
func TestTargets(t *testing.T) {
	for _, c := range []struct {
		url   string
		plain bool
		want  string
	}{
		{"https://edge.example", false, "https://edge.example/weir/v1/ws"},
		{"https://user:secret@edge.example:8443/other?x=1#y", false, "https://edge.example:8443/weir/v1/ws"},
		{"wss://[2001:db8::1]:443", false, "https://[2001:db8::1]:443/weir/v1/ws"},
		{"http://127.0.0.1:80", false, "http://127.0.0.1:80/weir/v1/ws"},
		{"http://localhost:80", false, "http://localhost:80/weir/v1/ws"},
		{"http://edge.example", false, ""},
		{"http://127.0.0.1.example", false, ""},
		{"ws://edge.example", true, "http://edge.example/weir/v1/ws"},
		{"ftp://edge.example", true, ""},
		{"https:///x", true, ""},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DialConfig{URL: u, AllowPlain: c.plain}.target()
		if c.want == "" {
			if err == nil {
				t.Errorf("%s leads to %s", c.url, got)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("%s leads to %v, %v; want %s", c.url, got, err, c.want)
		}
	}
}

// TestReachable: a listener on all addresses is reached by loopback, any other where it is.
func TestReachable(t *testing.T) {
	for in, want := range map[string]string{"0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "[::ffff:0.0.0.0]:1": "127.0.0.1:1",
		"192.0.2.1:1": "192.0.2.1:1", "[2001:db8::1]:1": "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1": "192.0.2.1:1"} {
		if got := reachable(netip.MustParseAddrPort(in)); got != netip.MustParseAddrPort(want) {
			t.Errorf("%s is reached at %s, want %s", in, got, want)
		}
	}
}

// TestOuterCertificate: the roots decide, then Trust; a name that is not the certificate's is not let pass by the roots.
func TestOuterCertificate(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	stranger := newAuthority(t, "127.0.0.1")
	own := func(cs tls.ConnectionState) error {
		if last := cs.PeerCertificates[len(cs.PeerCertificates)-1]; !last.Equal(e.ca) {
			return errors.New("not ours")
		}
		return nil
	}
	for _, c := range []struct {
		name   string
		change func(*DialConfig)
		ok     bool
	}{
		{"signed by a root", nil, true},
		{"signed by nobody known", func(cfg *DialConfig) { cfg.Roots = stranger.pool }, false},
		{"signed by nobody known, but trusted", func(cfg *DialConfig) { cfg.Roots, cfg.Trust = stranger.pool, own }, true},
		{"not trusted either", func(cfg *DialConfig) {
			cfg.Roots, cfg.Trust = stranger.pool, func(tls.ConnectionState) error { return errors.New("no") }
		}, false},
		{"another name", func(cfg *DialConfig) {
			cfg.URL = &url.URL{Scheme: "https", Host: "other.example:443"}
			cfg.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, e.url.Host)
			}
		}, false},
	} {
		ws, err := e.tryDial(c.change)
		if err == nil {
			ws.Close()
		}
		var stage *DialError
		if c.ok != (err == nil) || err != nil && (!errors.As(err, &stage) || stage.Stage != StageTLS) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
