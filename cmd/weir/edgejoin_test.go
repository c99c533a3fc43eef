//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// TestJoins: a launcher joins for its sandbox, a few times at most; what is no request, or asks for what cannot be, is told so and
// gets nothing; a socket that a dead edge left is replaced, that of a living one is not.
func TestJoins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir", edgeSocket)
	if _, err := joinEdge(path, tunnel.Owner{}); !errors.Is(err, errNoEdge) {
		t.Errorf("without an edge: %v", err)
	}
	left, err := listenJoins(path)
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if _, err := joinEdge(path, tunnel.Owner{}); !errors.Is(err, errNoEdge) {
		t.Errorf("with a dead edge's socket: %v", err)
	}
	ln, err := listenJoins(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenJoins(path); err == nil {
		t.Error("two edges have one socket")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	j := testJoins(t, ln)
	who := tunnel.Owner{Space: "acme", App: "app", Sandbox: "7f3a9c"}
	for i := range maxJoinedOfOne + 1 {
		f, err := joinEdge(path, who)
		switch {
		case i == maxJoinedOfOne:
			if err == nil || !strings.Contains(err.Error(), "joined already") {
				t.Errorf("joining for the %dth time: %v", i+1, err)
			}
		case err != nil:
			t.Fatal(err)
		default:
			conn, err := handoff.NewConn(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.Query(t.Context(), tunnel.Query{Message: make([]byte, 12)}); tunnel.CodeOf(err) != tunnel.NoClient {
				t.Errorf("a question: %v", err)
			}
			defer conn.Close()
		}
	}
	for name, who := range map[string]tunnel.Owner{
		"no space":  {App: "app", Sandbox: "1"},
		"bad space": {Space: "a/b", App: "app", Sandbox: "1"},
		"bad app":   {Space: "acme", App: "\x1b[31m", Sandbox: "1"},
		"long id":   {Space: "acme", App: "app", Sandbox: strings.Repeat("1", 65)},
	} {
		if f, err := joinEdge(path, who); err == nil {
			f.Close()
			t.Errorf("%s: joined", name)
		}
	}
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("nonsense"))
	var a joinAnswer
	c.SetReadDeadline(time.Now().Add(joinTimeout))
	if err := receiveJSON(c, &a); err != nil || a.Error == "" {
		t.Errorf("nonsense was answered with %+v, %v", a, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.held) != 1 || j.held[who] != maxJoinedOfOne {
		t.Errorf("joined are %v", j.held)
	}
}

// testJoins is an edge that takes launchers at ln.
func testJoins(t *testing.T, ln *net.UnixListener) *joins {
	t.Helper()
	store, err := creds.OpenStore(creds.StoreConfig{Dir: t.TempDir() + "/keys", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	udp, tcp, err := edge.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Config{UDP: udp, TCP: tcp, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	j := newJoins(e)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		j.serve(ctx, ln)
	}()
	t.Cleanup(func() {
		ln.Close()
		cancel()
		<-served
		j.work.Wait()
		e.Close()
	})
	return j
}

// TestEdgeLink: a data path whose edge has gone has another one joined when it wants to open something, not more often than it
// may, and fails closed meanwhile.
func TestEdgeLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), edgeSocket)
	asked := 0
	l := &edgeLink{join: func() (*os.File, error) {
		asked++
		return joinEdge(path, tunnel.Owner{Space: "acme", App: "app", Sandbox: "1"})
	}}
	open := func() tunnel.Code {
		_, err := l.OpenStream(t.Context(), tunnel.Open{})
		return tunnel.CodeOf(err)
	}
	for range 3 {
		if code := open(); code != tunnel.NoClient {
			t.Errorf("without an edge: %v", code)
		}
	}
	if asked != 1 {
		t.Errorf("the launcher was asked %d times within a second", asked)
	}
	ln, err := listenJoins(path)
	if err != nil {
		t.Fatal(err)
	}
	testJoins(t, ln)
	l.tried = time.Time{}
	if _, _, err := l.Query(t.Context(), tunnel.Query{Message: make([]byte, 12)}); tunnel.CodeOf(err) != tunnel.NoClient || l.conn == nil {
		t.Errorf("with an edge: %v", err)
	}
	first := l.conn
	first.Close()
	<-first.Done()
	if code := open(); code != tunnel.NoClient || l.conn != first {
		t.Errorf("at once after its end: %v", code)
	}
	l.tried = time.Time{}
	if l.current() == first {
		t.Error("no other edge was joined")
	}
	l.conn.Close()
	<-l.conn.Done()
}
