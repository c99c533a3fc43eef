//go:build linux

package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// relay joins two connections until both directions have ended.
func relay(a, b net.Conn) {
	var both sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			io.Copy(p[0], p[1])
			p[0].Close()
			p[1].Close()
		})
	}
	both.Wait()
}

// connectProxy is an HTTP proxy that carries CONNECT to target, whatever was asked for, and wants a user.
type connectProxy struct {
	target  string
	user    string // "Basic ..." or empty
	status  int    // what it answers instead of 200
	carried atomic.Int32
	asked   atomic.Value
	carry   func(client net.Conn, upstream net.Conn)
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Store(r.Method + " " + r.Host)
	if p.user != "" && r.Header.Get("Proxy-Authorization") != p.user {
		w.Header().Set("Proxy-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if p.status != 0 {
		w.WriteHeader(p.status)
		return
	}
	upstream, err := net.Dial("tcp", p.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	p.carried.Add(1)
	p.carry(client, upstream)
}

// start runs the proxy, with TLS where cert is given, and returns its URL.
func (p *connectProxy) start(t *testing.T, cert *tls.Certificate) *url.URL {
	if p.carry == nil {
		p.carry = relay
	}
	s := httptest.NewUnstartedServer(p)
	if cert != nil {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// through makes a config go through the proxy at u to a name that only the proxy knows.
func through(u *url.URL, user *url.Userinfo) func(*DialConfig) {
	return func(cfg *DialConfig) {
		cfg.URL = &url.URL{Scheme: "https", Host: "edge.example"}
		with := *u
		with.User = user
		cfg.Proxy = func(*url.URL) (*url.URL, error) { return &with, nil }
	}
}

func TestProxy(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	const basic = "Basic YWxpY2U6cyNjcmV0" // alice:s#cret
	alice := url.UserPassword("alice", "s#cret")
	for _, c := range []struct {
		name  string
		proxy *connectProxy
		tls   bool
		user  *url.Userinfo
		err   error  // wrapped
		text  string // in the error
	}{
		{name: "open"},
		{name: "by TLS", tls: true},
		{name: "with a password", proxy: &connectProxy{user: basic}, user: alice},
		{name: "without the password", proxy: &connectProxy{user: basic}, err: ErrProxyAuth, text: "credentials"},
		{name: "with another password", proxy: &connectProxy{user: basic}, user: url.UserPassword("alice", "wr#ng"), err: ErrProxyAuth, text: "credentials"},
		{name: "forbidden", proxy: &connectProxy{status: 403}, user: alice, text: "403 Forbidden"},
		{name: "without a way", proxy: &connectProxy{target: "127.0.0.1:1"}, user: alice, text: "502 Bad Gateway"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.proxy
			if p == nil {
				p = &connectProxy{}
			}
			if p.target == "" {
				p.target = e.url.Host
			}
			var u *url.URL
			if c.tls {
				u = p.start(t, &e.cert)
			} else {
				u = p.start(t, nil)
			}
			ws, err := e.tryDial(through(u, c.user))
			if got := p.asked.Load(); got != "CONNECT edge.example:443" {
				t.Errorf("the proxy was asked for %v", got)
			}
			if c.text != "" {
				var stage *DialError
				if !errors.As(err, &stage) || stage.Stage != StageProxy || stage.Proxy != u.Host || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v", err)
				}
				for _, secret := range []string{"s#cret", "wr#ng", "s%23cret", "alice", basic[6:]} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error tells %q: %v", secret, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ws.Close() })
			sameBytes(t, e.quicOver(t, ws, ws.RemoteAddr()), 1<<20)
			if p.carried.Load() != 1 {
				t.Errorf("the proxy carried %d connections", p.carried.Load())
			}
		})
	}
}

// TestProxyFromEnvironment: without a function the environment decides, and NO_PROXY is honoured.
func TestProxyFromEnvironment(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	p := &connectProxy{target: e.url.Host}
	t.Setenv("HTTPS_PROXY", p.start(t, nil).String())
	t.Setenv("NO_PROXY", "direct.example")
	var dialled []string
	for _, host := range []string{"edge.example", "direct.example"} {
		ws, err := e.tryDial(func(cfg *DialConfig) {
			cfg.URL = &url.URL{Scheme: "https", Host: host}
			cfg.Proxy = nil
			cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled = append(dialled, addr)
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		if err == nil {
			ws.Close()
		}
		if (err == nil) != (host == "edge.example") {
			t.Errorf("%s: %v", host, err)
		}
	}
	if p.carried.Load() != 1 || len(dialled) != 2 || dialled[1] != "direct.example:443" {
		t.Errorf("dialled %v, %d by the proxy", dialled, p.carried.Load())
	}
	t.Setenv("HTTPS_PROXY", "http://alice:s#cret@proxy.example:1 2/")
	if _, err := e.tryDial(func(cfg *DialConfig) { cfg.URL, cfg.Proxy = &url.URL{Scheme: "https", Host: "edge.example"}, nil }); err == nil || strings.Contains(err.Error(), "s#cret") {
		t.Errorf("a broken proxy URL: %v", err)
	}
}

// TestSOCKS goes through a SOCKS 5 proxy with a password, which is told the name and not an address.
func TestSOCKS(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 512)
		io.ReadFull(c, b[:2])
		io.ReadFull(c, b[:b[1]])
		c.Write([]byte{5, 2}) // RFC 1929
		io.ReadFull(c, b[:len("\x01\x05alice\x06s#cret")])
		asked <- string(b[:14])
		c.Write([]byte{1, 0})
		io.ReadFull(c, b[:5])
		io.ReadFull(c, b[5:5+int(b[4])+2])
		asked <- string(b[5 : 5+b[4]])
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		upstream, err := net.Dial("tcp", e.url.Host)
		if err != nil {
			t.Error(err)
			return
		}
		relay(c, upstream)
	}()
	proxied := make(chan error, 1)
	go func() {
		ws, err := e.tryDial(through(&url.URL{Scheme: "socks5h", Host: l.Addr().String()}, url.UserPassword("alice", "s#cret")))
		if err == nil {
			ws.Close()
		}
		proxied <- err
	}()
	if login, name := <-asked, <-asked; login != "\x01\x05alice\x06s#cret" || name != "edge.example" {
		t.Errorf("asked with %q for %q", login, name)
	}
	if err := <-proxied; err != nil {
		t.Error(err)
	}
}

// TestSilentProxy: a proxy that never answers costs no more than the caller's patience.
func TestSilentProxy(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Read(make([]byte, 1))
		cancel(why)
		io.Copy(io.Discard, c)
	}()
	cfg := DialConfig{Roots: e.pool}
	through(&url.URL{Scheme: "http", Host: l.Addr().String()}, nil)(&cfg)
	if _, err := Dial(ctx, cfg); !errors.Is(err, why) {
		t.Errorf("Dial = %v", err)
	}
}

// wiretap is what an intercepting proxy sees, both directions apart.
type wiretap struct {
	mu   sync.Mutex
	seen [2]bytes.Buffer
}

// TestInterceptingProxy: a proxy that breaks the outer TLS, with a root that the user's machine trusts, carries the tunnel and
// learns nothing of it: each octet that it sees inside of messages belongs to a QUIC packet, and none of the payload is there.
func TestInterceptingProxy(t *testing.T) {
	const marker = "the payload that nobody on the way may read"
	e := newEdge(t, ServerConfig{}, nil)
	interceptor := newAuthority(t, "edge.example")
	var tap wiretap
	p := &connectProxy{target: e.url.Host, carry: func(client, upstream net.Conn) {
		inside := tls.Server(client, &tls.Config{Certificates: []tls.Certificate{interceptor.cert}})
		outside := tls.Client(upstream, &tls.Config{RootCAs: e.pool, ServerName: "edge.example"})
		relay(tapped{inside, &tap, 0}, tapped{outside, &tap, 1})
	}}
	u := p.start(t, nil)
	if _, err := e.tryDial(through(u, nil)); err == nil {
		t.Fatal("an interceptor that nobody trusts was let through")
	}
	ws, err := e.tryDial(func(cfg *DialConfig) {
		through(u, nil)(cfg)
		cfg.Roots = interceptor.pool
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	tap = wiretap{}
	c := e.quicOver(t, ws, ws.RemoteAddr())
	s, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(patience))
	io.WriteString(s, strings.Repeat(marker, 1000))
	s.Close()
	if back, err := io.ReadAll(s); err != nil || len(back) != 1000*len(marker) {
		t.Fatalf("%d octets, %v", len(back), err)
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	for i := range tap.seen {
		plain, packets := unframe(t, tap.seen[i].Bytes())
		if packets < 20 || bytes.Contains(plain, []byte(marker[:12])) {
			t.Errorf("direction %d: %d packets, payload seen: %v", i, packets, bytes.Contains(plain, []byte(marker[:12])))
		}
	}
}

// tapped records what is read from a connection.
type tapped struct {
	net.Conn
	tap       *wiretap
	direction int
}

func (c tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tap.mu.Lock()
	c.tap.seen[c.direction].Write(p[:n])
	c.tap.mu.Unlock()
	return n, err
}

// unframe takes WebSocket frames (RFC 6455 section 5.2) apart and holds each message to packets of QUIC: the fixed bit is
// set (RFC 9000 section 17), and long headers name version 1.
func unframe(t *testing.T, b []byte) (plain []byte, packets int) {
	if i := bytes.Index(b, []byte("\r\n\r\n")); bytes.HasPrefix(b, []byte("GET ")) || bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
		b = b[i+4:]
	}
	for len(b) >= 2 {
		opcode, masked, n := b[0]&15, b[1]&128 != 0, int(b[1]&127)
		b = b[2:]
		switch n {
		case 126:
			n, b = int(binary.BigEndian.Uint16(b)), b[2:]
		case 127:
			n, b = int(binary.BigEndian.Uint64(b)), b[8:]
		}
		var key [4]byte
		if masked {
			b = b[copy(key[:], b):]
		}
		if n > len(b) {
			return plain, packets // the rest was not there yet
		}
		message := bytes.Clone(b[:n])
		for i := range message {
			message[i] ^= key[i%4]
		}
		b = b[n:]
		if opcode != 2 {
			continue
		}
		plain = append(plain, message...)
		k, err := check(message)
		if err != nil {
			t.Fatal(err)
		}
		packets += k
		for rest := message; len(rest) > 0; {
			var packet []byte
			packet, rest = nextPacket(rest)
			if packet[0]&0x40 == 0 || packet[0]&0x80 != 0 && quic.Version(binary.BigEndian.Uint32(packet[1:])) != quic.Version1 {
				t.Errorf("no QUIC packet: % x", packet[:5])
			}
		}
	}
	return plain, packets
}
