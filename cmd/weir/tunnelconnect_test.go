//go:build linux && !client

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
)

// hosted is an edge on the loopback, with a token for the next client.
type hosted struct {
	*edge.Edge
	store *creds.Store
	token string // a file
}

func newHosted(t *testing.T) *hosted {
	t.Helper()
	for _, v := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"} {
		t.Setenv(v, t.TempDir())
	}
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
	t.Cleanup(func() { e.Close() })
	h := &hosted{Edge: e, store: store}
	h.newToken(t)
	return h
}

func (h *hosted) newToken(t *testing.T) {
	t.Helper()
	token, err := h.store.NewToken(creds.TokenRequest{Space: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	h.token = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(h.token, []byte(token.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *hosted) url() string { return "https://" + h.Addr().String() }

// connected is a "weir connect" that runs.
type connected struct {
	stop   context.CancelFunc
	events chan *event.Event
	done   chan error
}

// connects runs "weir connect" and reads what it prints.
func (h *hosted) connects(t *testing.T, args ...string) *connected {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	u := &connected{stop: stop, events: make(chan *event.Event, 1000), done: make(chan error, 1)}
	cmd := newRootCommand()
	cmd.SetArgs(append([]string{"connect", "--tunnel", h.url(), "--json"}, args...))
	cmd.SetOut(w)
	go func() {
		err := cmd.ExecuteContext(ctx)
		w.Close()
		u.done <- err
	}()
	var work sync.WaitGroup
	work.Go(func() {
		defer r.Close()
		defer close(u.events)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			e, err := event.Parse(lines.Bytes())
			if err != nil {
				t.Errorf("%s: %v", lines.Bytes(), err)
				return
			}
			u.events <- e
		}
	})
	t.Cleanup(func() { stop(); work.Wait() })
	return u
}

// next returns the next event of a kind; others are passed over.
func (u *connected) next(t *testing.T, kind event.Kind) *event.Event {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-u.events:
			if !ok {
				t.Fatalf("weir connect has ended before %s: %v", kind, <-u.done)
			}
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("no %s", kind)
		}
	}
}

// destination listens on the loopback and answers each line with itself.
func destinationServer(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestConnectCommand is the whole of the user's end: enrolment, the list, a flow with its events, another run without a token,
// and the end.
func TestConnectCommand(t *testing.T) {
	h, at := newHosted(t), destinationServer(t)
	sandbox := h.Sandbox(tunnel.Owner{Space: "acme", App: "postgres", Sandbox: "7f3a9c"})
	open := tunnel.Open{Flow: "7f3a9c-12", Network: "tcp", Addr: at, Names: []string{"db.example"}}

	u := h.connects(t, "--token-file", h.token, "--client", "laptop", "--allow", at.String())
	up := u.next(t, event.KindTunnelUp).Details.(*event.Tunnel)
	if up.Client != "acme/laptop" || up.Transport != "quic" || up.Session == "" {
		t.Errorf("up: %+v", up)
	}
	c, err := sandbox.OpenStream(t.Context(), open)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("read %q: %v", b, err)
	}
	began := u.next(t, event.KindConnect)
	if d := began.Details.(*event.Connect); began.Flow != open.Flow || began.App != "postgres" || d.Verdict != "allow" || d.Client != "acme/laptop" || d.Route != "tunnel" || d.Dst != at || d.NameSource != "none" {
		t.Errorf("connect: %+v %+v", began, d)
	}
	c.CloseWrite()
	io.Copy(io.Discard, c)
	c.Close()
	if d := u.next(t, event.KindClose).Details.(*event.Close); d.BytesSent != 5 || d.BytesReceived != 5 || d.Close != "fin" {
		t.Errorf("close: %+v", d)
	}

	denied := open
	denied.Addr = netip.AddrPortFrom(at.Addr(), 1)
	if _, err := sandbox.OpenStream(t.Context(), denied); !errors.Is(err, syscall.EACCES) {
		t.Errorf("another port: %v", err)
	}
	if d := u.next(t, event.KindConnect).Details.(*event.Connect); d.Verdict != "deny" || d.Reason != "guard" {
		t.Errorf("another port: %+v", d)
	}
	wire, err := new(dns.Msg).SetQuestion("db.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, _, err := sandbox.Query(t.Context(), tunnel.Query{Message: wire})
	if m := new(dns.Msg); err != nil || m.Unpack(answer) != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("a name that no rule is about: %v, %v", m, err)
	}
	u.next(t, event.KindDNSQuery)

	c, err = sandbox.OpenStream(t.Context(), open)
	if err != nil {
		t.Fatal(err)
	}
	u.stop()
	if _, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a flow when its client has gone: %v", err)
	}
	if d := u.next(t, event.KindTunnelDown).Details.(*event.Tunnel); d.Client != "acme/laptop" {
		t.Errorf("down: %+v", d)
	}
	if err := <-u.done; exitStatus(err) != 0 {
		t.Errorf("ended with %v", err)
	}

	again := h.connects(t, "--allow", at.String())
	again.next(t, event.KindTunnelUp)
	if err := h.store.Revoke(tunnel.Identity{Space: "acme", Client: "laptop"}); err != nil {
		t.Fatal(err)
	}
	if err := <-again.done; exitStatus(err) != statusNoCredentials || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v, status %d", err, exitStatus(err))
	}
	log, err := os.ReadFile(filepath.Join(os.Getenv("XDG_STATE_HOME"), "weir", "connect.jsonl"))
	if err != nil || strings.Count(string(log), `"event":"tunnel-up"`) != 2 {
		t.Errorf("the log: %v\n%s", err, log)
	}
}

// TestSignalsEndAtOnce: a signal lets no flow go on, not even for the moment that a key would.
func TestSignalsEndAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			h, at := newHosted(t), destinationServer(t)
			sandbox := h.Sandbox(tunnel.Owner{Space: "acme", App: "postgres", Sandbox: "7f3a9c"})
			p := onTerminal(t, "connect", "--tunnel", h.url(), "--token-file", h.token, "--plain", "--allow", at.String())
			p.shows(t, "connected")
			c, err := sandbox.OpenStream(t.Context(), tunnel.Open{Flow: "7f3a9c-12", Network: "tcp", Addr: at})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			p.cmd.Process.Signal(sig)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the flow ended with %v", err)
			}
			if p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 0 {
				t.Errorf("status %d", p.cmd.ProcessState.ExitCode())
			}
			if strings.Contains(p.text(), "about to stop") {
				t.Errorf("it let the flow go on:\n%s", p.text())
			}
		})
	}
}

// TestFullDisk: a log that could not be written is not passed over in silence.
func TestFullDisk(t *testing.T) {
	h := newHosted(t)
	p := onTerminal(t, "connect", "--tunnel", h.url(), "--token-file", h.token, "--plain", "--events", "/dev/full")
	p.shows(t, "connected")
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.shows(t, "the event log is not complete")
	if p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("status %d", p.cmd.ProcessState.ExitCode())
	}
}

// TestConnectCommandErrors: what is wrong is said before anything is connected, with what mends it.
func TestConnectCommandErrors(t *testing.T) {
	h := newHosted(t)
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", 2, "which edge?"},
		{"--tunnel http://x", 2, "want https://"},
		{"--tunnel " + h.url(), statusNoCredentials, "not enrolled"},
		{"--tunnel " + h.url() + " --allow nothing:at:all", 2, "flag:1:"},
		{"--tunnel " + h.url() + " --allow localhost:5432", 2, "flag of its own"},
		{"--tunnel " + h.url() + " --allow-loopback 70000", 2, "want a port"},
		{"--tunnel " + h.url() + " --dns @", 2, "--dns"},
		{"--tunnel " + h.url() + " -f /nonexistent", 1, "no such file"},
		{"--tunnel " + h.url() + " --ask", 2, "needs a terminal"},
		{"--tunnel " + h.url() + " --token-file /nonexistent", 1, "no such file"},
		{"--tunnel " + h.url() + " extra", 2, "want no argument"},
	} {
		cmd := newRootCommand()
		cmd.SetArgs(append([]string{"connect"}, strings.Fields(c.args)...))
		err := cmd.Execute()
		if exitStatus(err) != c.status || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: status %d, %v", c.args, exitStatus(err), err)
		}
	}
}

// TestConnectDoctor: what stands in the way is said by what was tried, and nothing is left connected.
func TestConnectDoctor(t *testing.T) {
	h := newHosted(t)
	examine := func(url string) (findings map[string]finding, status int) {
		var out strings.Builder
		cmd := newRootCommand()
		cmd.SetArgs([]string{"connect", "--tunnel", url, "--doctor", "--json"})
		cmd.SetOut(&out)
		err := cmd.Execute()
		var list []finding
		if err := json.Unmarshal([]byte(out.String()), &list); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		findings = map[string]finding{}
		for _, f := range list {
			findings[f.ID] = f
		}
		return findings, exitStatus(err)
	}
	found, status := examine(h.url())
	if status != 2 || found["credentials"].Status != "fail" || !strings.Contains(found["credentials"].Fix, "enroll") || found["udp"].Status != "pass" {
		t.Errorf("without credentials: %d, %+v", status, found)
	}
	u := h.connects(t, "--token-file", h.token)
	u.next(t, event.KindTunnelUp)
	if found, status := examine(h.url()); status != 0 || found["udp"].Status != "pass" || found["dns"].Status != "pass" || found["websocket"].Status != "pass" {
		t.Errorf("with all of it: %d, %+v", status, found)
	}
	if n := len(h.Clients()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
