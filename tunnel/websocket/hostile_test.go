//go:build linux

package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ws "github.com/coder/websocket"
)

// rawDial opens a WebSocket to e by the library alone.
func (e *edge) rawDial(t *testing.T) *ws.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: e.pool}}
	c, _, err := ws.Dial(ctx, e.url.String()+Path, &ws.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseNow()
		transport.CloseIdleConnections()
	})
	return c
}

// hostile are messages that end a session, with the status that says why.
var hostile = []struct {
	name   string
	kind   ws.MessageType
	data   []byte
	status ws.StatusCode
}{
	{"text", ws.MessageText, []byte("hello"), ws.StatusUnsupportedData},
	{"half a length", ws.MessageBinary, []byte{0}, ws.StatusInvalidFramePayloadData},
	{"half a packet", ws.MessageBinary, []byte{0, 9, 1}, ws.StatusInvalidFramePayloadData},
	{"a packet too long", ws.MessageBinary, append([]byte{0x10, 0}, make([]byte, 0x1000)...), ws.StatusInvalidFramePayloadData},
	{"the second is broken", ws.MessageBinary, append(appendPacket(nil, make([]byte, 40)), 0, 1), ws.StatusInvalidFramePayloadData},
	{"a message too long", ws.MessageBinary, bytes.Repeat(appendPacket(nil, make([]byte, 1000)), 70), ws.StatusMessageTooBig},
	{"huge", ws.MessageBinary, make([]byte, 8<<20), ws.StatusMessageTooBig},
}

// TestHostileClient: what is no message ends the session, and only that.
func TestHostileClient(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			raw := e.rawDial(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			go raw.Write(ctx, c.kind, c.data)
			_, _, err := raw.Read(ctx)
			if got := ws.CloseStatus(err); got != c.status && !(c.name == "huge" && err != nil) { // its reset may overtake the reason
				t.Errorf("ended with %v, want %v", err, c.status)
			}
			raw.CloseNow()
			e.sessions(t, 0)
		})
	}
	if e.Malformed.Load() < 4 {
		t.Errorf("%d counted as malformed", e.Malformed.Load())
	}
	good := e.dial(t, nil)
	sameBytes(t, e.quicOver(t, good, good.RemoteAddr()), 1000)
}

// TestEmptyPackets: packets and messages without octets are for nobody, and do no harm.
func TestEmptyPackets(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	raw := e.rawDial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, m := range [][]byte{{}, {0, 0}, {0, 0, 0, 0}, {0, 0, 0, 3, 1, 2, 3, 0, 0}} {
		if err := raw.Write(ctx, ws.MessageBinary, m); err != nil {
			t.Fatal(err)
		}
	}
	go raw.Read(ctx)
	if err := raw.Ping(ctx); err != nil {
		t.Errorf("the session is gone: %v", err)
	}
}

// hostileEdge is a WebSocket server that does as it likes.
func hostileEdge(t *testing.T, serve func(context.Context, *ws.Conn)) *Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	a := newAuthority(t, "127.0.0.1")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.cert}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := ws.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		serve(ctx, c)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	c, err := Dial(ctx, DialConfig{URL: mustURL("https://" + l.Addr().String()), Roots: a.pool, Proxy: noProxy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestHostileEdge: the client's end is as strict.
func TestHostileEdge(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			conn := hostileEdge(t, func(ctx context.Context, raw *ws.Conn) {
				raw.Write(ctx, c.kind, c.data)
				raw.Read(ctx)
			})
			if n, _, err := conn.ReadFrom(make([]byte, MaxPacket)); err == nil {
				t.Errorf("got a packet of %d octets", n)
			}
		})
	}
}

// TestSlowPeer: to a peer that takes nothing a client can write for ever; what there is no room for is dropped, the memory is
// bounded, and Close does not wait for it long.
func TestSlowPeer(t *testing.T) {
	over := make(chan struct{})
	conn := hostileEdge(t, func(ctx context.Context, raw *ws.Conn) { <-over })
	defer close(over)
	packet := make([]byte, 1452)
	const n = 40000
	for range n {
		if _, err := conn.WriteTo(packet, nil); err != nil {
			t.Fatal(err)
		}
	}
	s := conn.Stats()
	if s.Dropped < n/2 || s.Dropped+s.Sent+QueueLen < n {
		t.Errorf("%+v of %d packets", s, n)
	}
	q := conn.out
	q.mu.Lock()
	if q.count+q.flying > QueueLen || cap(q.waiting)+cap(q.spare) > 4*QueueLen*MaxPacket {
		t.Errorf("%d packets wait in %d octets", q.count+q.flying, cap(q.waiting)+cap(q.spare))
	}
	q.mu.Unlock()
	conn.Close()
}

// TestBounds: sessions over a bound are refused and counted, by host and in all, and places come back.
func TestBounds(t *testing.T) {
	for name, cfg := range map[string]ServerConfig{"per host": {SessionsPerHost: 2}, "in all": {Sessions: 2, SessionsPerHost: 5}} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, cfg, nil)
			first := e.dial(t, nil)
			e.dial(t, nil)
			if _, err := e.tryDial(nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte("429")) || e.Refused.Load() != 1 {
				t.Errorf("a third session: %v, %d refused", err, e.Refused.Load())
			}
			first.Close()
			e.sessions(t, 1)
			for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				c, err := e.tryDial(nil)
				if err == nil {
					c.Close()
					break
				}
				if time.Now().After(end) {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestConnectionBound: connections that never become a session have a bound, too, and an end.
func TestConnectionBound(t *testing.T) {
	e := newEdge(t, ServerConfig{Sessions: 2, SessionsPerHost: 2, Header: 200 * time.Millisecond}, nil)
	var conns []net.Conn
	for range 2 * connectionsFactor {
		c, err := net.Dial("tcp", e.url.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	over, err := net.Dial("tcp", e.url.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	for i, c := range append([]net.Conn{over}, conns...) { // the first is closed for the bound, the others for saying nothing
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if e.Refused.Load() != 1 {
		t.Errorf("%d refused", e.Refused.Load())
	}
	e.dial(t, nil)
}

// TestSlowHeaders: a client that sends its request an octet at a time is left.
func TestSlowHeaders(t *testing.T) {
	e := newEdge(t, ServerConfig{Header: 300 * time.Millisecond}, nil)
	c, err := tls.Dial("tcp", e.url.Host, &tls.Config{RootCAs: e.pool})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	request := "GET " + Path + " HTTP/1.1\r\nHost: x\r\n" + "X: " + string(bytes.Repeat([]byte("x"), 4000))
	for i := 0; err == nil; i++ {
		_, err = io.WriteString(c, request[i%len(request):i%len(request)+1])
		time.Sleep(time.Millisecond)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("never left")
	}
}

// TestNotOurs: other paths, and requests for no WebSocket, get HTTP's own answers.
func TestNotOurs(t *testing.T) {
	e := newEdge(t, ServerConfig{}, nil)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: e.pool}}
	defer transport.CloseIdleConnections()
	for path, want := range map[string]int{"/": 404, Path + "/x": 404, Path: 426} {
		r, err := (&http.Client{Transport: transport}).Get(e.url.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want || r.ProtoMajor != 1 {
			t.Errorf("%s: %s %s, want %d", path, r.Proto, r.Status, want)
		}
	}
}

// TestIdle: a session that sends no packet ends, pings or not.
func TestIdle(t *testing.T) {
	e := newEdge(t, ServerConfig{Idle: 100 * time.Millisecond}, nil)
	raw := e.rawDial(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		for raw.Ping(ctx) == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	raw.Read(ctx)
	if ctx.Err() != nil {
		t.Error("the session did not end")
	}
	e.sessions(t, 0)
}

// TestQuota counts IPv6 by the network that one host has.
func TestQuota(t *testing.T) {
	q := newQuota(3, 1)
	for _, c := range []struct {
		addr string
		ok   bool
	}{{"192.0.2.1", true}, {"::ffff:192.0.2.1", false}, {"192.0.2.2", true}, {"2001:db8::1", true}, {"2001:db8::2", false}, {"2001:db8:0:1::1", false}} {
		if got := q.take(netip.MustParseAddr(c.addr)); got != c.ok {
			t.Errorf("%s: %v", c.addr, got)
		}
	}
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::9"} {
		q.give(netip.MustParseAddr(a))
	}
	if q.held != 0 || len(q.by) != 0 {
		t.Errorf("%+v is held", q)
	}
}

// TestSlowRequests: a request whose body does not come, and answers that nobody reads, hold a connection no longer than a slow
// header does.
func TestSlowRequests(t *testing.T) {
	e := newEdge(t, ServerConfig{Header: 300 * time.Millisecond}, nil)
	for name, say := range map[string]string{
		"no body":           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"no body, our path": "POST " + Path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"answers unread":    strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", e.url.Host, &tls.Config{RootCAs: e.pool})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, say) // blocks, where answers are not read
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it is open still")
			}
		})
	}
}

// TestNobody: packets that come to nothing do not keep a session; one that is somebody's stays.
func TestNobody(t *testing.T) {
	var known atomic.Bool
	known.Store(true)
	e := newEdge(t, ServerConfig{Grace: 50 * time.Millisecond, Known: func(Session) bool { return known.Load() }}, nil)
	raw := e.rawDial(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	junk := appendPacket(nil, []byte("what is this?"))
	for range 10 {
		if err := raw.Write(ctx, ws.MessageBinary, junk); err != nil {
			t.Fatalf("a session that is somebody's: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	known.Store(false)
	for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
		err = raw.Write(ctx, ws.MessageBinary, junk)
	}
	if ctx.Err() != nil {
		t.Error("a session that is nobody's goes on")
	}
	e.sessions(t, 0)
}
