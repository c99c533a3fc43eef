//go:build unix

package creds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/tunnel"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		n, err := strconv.Atoi(os.Args[2])
		if err = errors.Join(err, helper(os.Args[1], n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// openStore makes a store in a directory of the test's.
func openStore(t *testing.T, c *clock) *Store {
	t.Helper()
	s, err := OpenStore(StoreConfig{Dir: t.TempDir() + "/edge", Create: true, Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testEdge is the smallest edge: it enrols clients, and echoes one stream to those that may connect.
type testEdge struct {
	*Store
	addr string

	mu    sync.Mutex
	conns map[*quic.Conn]Admission
	errs  []error
}

func listen(t *testing.T, s *Store) *testEdge {
	t.Helper()
	l := listenQUIC(t, s.TLS())
	e := &testEdge{Store: s, addr: l.Addr().String(), conns: map[*quic.Conn]Admission{}}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept(ctx)
			if err != nil {
				return
			}
			done.Go(func() { e.serve(ctx, conn) })
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return e
}

// listenQUIC listens until the test ends. A transport of one's own ends when it is closed; that of quic.ListenAddr outlives
// the listener by a time.
func listenQUIC(t *testing.T, conf *tls.Config) *quic.Listener {
	t.Helper()
	transport := newTransport(t)
	l, err := transport.Listen(conf, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newTransport(t *testing.T) *quic.Transport {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() { transport.Close(); socket.Close() })
	return transport
}

func (e *testEdge) serve(ctx context.Context, conn *quic.Conn) {
	if conn.ConnectionState().TLS.NegotiatedProtocol == tunnel.EnrollALPN {
		from := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr()
		if err := e.ServeEnroll(ctx, conn, from); err != nil {
			e.mu.Lock()
			e.errs = append(e.errs, err)
			e.mu.Unlock()
		}
		return
	}
	id, err := e.Admit(conn.ConnectionState().TLS)
	if err != nil {
		conn.CloseWithError(1, err.Error())
		return
	}
	e.mu.Lock()
	e.conns[conn] = id
	e.mu.Unlock()
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			conn.CloseWithError(0, "")
			return
		}
		b := make([]byte, 16)
		n, _ := stream.Read(b)
		stream.Write(append([]byte(id.String()+" "), b[:n]...))
		stream.Close()
	}
}

func dial(t *testing.T, addr string, conf *tls.Config) (*quic.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	return newTransport(t).Dial(ctx, to, conf, &quic.Config{})
}

// enroll brings a token, as a client of a directory of its own.
func (e *testEdge) enroll(t *testing.T, token Token, name string, c *clock) (*Enrolled, error) {
	t.Helper()
	return e.enrollIn(t, token, name, ClientConfig{Dir: t.TempDir() + "/client", Clock: c.Now})
}

func (e *testEdge) enrollIn(t *testing.T, token Token, name string, conf ClientConfig) (*Enrolled, error) {
	t.Helper()
	conn, err := dial(t, e.addr, EnrollTLS(token, conf.Clock))
	if err != nil {
		return nil, Explain(err)
	}
	return Enroll(t.Context(), conn, EnrollRequest{Token: token, Name: name, ClientConfig: conf})
}

// connect makes a connection of the tunnel, and says what the edge takes the client for.
func connect(t *testing.T, addr string, c *Client) (conn *quic.Conn, who string, err error) {
	t.Helper()
	conn, err = dial(t, addr, c.TLS())
	if err != nil {
		return nil, "", Explain(err)
	}
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	who, err = ask(conn)
	return conn, who, Explain(err)
}

// ask opens a stream: the edge answers with the client's name.
func ask(conn *quic.Conn) (string, error) {
	stream, err := conn.OpenStream()
	if err != nil {
		return "", err
	}
	if _, err := stream.Write([]byte("hello")); err != nil {
		return "", err
	}
	stream.Close()
	b, err := readMessage(stream)
	return string(b), err
}

func mustToken(t *testing.T, s *Store, r TokenRequest) Token {
	t.Helper()
	token, err := s.NewToken(r)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func mustEnroll(t *testing.T, e *testEdge, r TokenRequest, name string, c *clock) *Enrolled {
	t.Helper()
	client, err := e.enroll(t, mustToken(t, e.Store, r), name, c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestLifeOfAClient: a token makes a client, whom the edge knows by its certificate alone, again and again.
func TestLifeOfAClient(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client := mustEnroll(t, e, TokenRequest{Space: "acme"}, "laptop", c)
	for range 2 {
		_, who, err := connect(t, e.addr, client.Client)
		if err != nil || who != "acme/laptop hello" {
			t.Fatalf("connected as %q, %v", who, err)
		}
	}
	if client.Skew < -time.Second || client.Skew > time.Second {
		t.Errorf("clocks that agree are %v apart", client.Skew)
	}
}
