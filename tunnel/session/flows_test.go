package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-dev/weir/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, e *Edge, to netip.AddrPort) tunnel.Stream {
	t.Helper()
	s, err := e.OpenStream(context.Background(), tunnel.Open{Network: "tcp", Addr: to})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// readAll is io.ReadAll with an end.
func readAll(t *testing.T, c net.Conn) ([]byte, error) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return io.ReadAll(c)
}

// TestEnds: however one side ends its connection, the other side sees it ended in the same way.
func TestEnds(t *testing.T) {
	piece := bytes.Repeat([]byte("piece"), 40_000)
	for _, c := range []struct {
		name    string
		server  func(t *testing.T, c *net.TCPConn)
		program func(t *testing.T, s tunnel.Stream)
	}{
		{"the server ends its stream first", func(t *testing.T, c *net.TCPConn) {
			c.Write(piece)
			c.CloseWrite()
			if b, err := readAll(t, c); !bytes.Equal(b, piece) || err != nil {
				t.Errorf("the server read %d octets, %v", len(b), err)
			}
		}, func(t *testing.T, s tunnel.Stream) {
			if b, err := readAll(t, s); !bytes.Equal(b, piece) || err != nil {
				t.Errorf("the program read %d octets, %v", len(b), err)
			}
			s.Write(piece)
			s.CloseWrite()
		}},
		{"the program ends its stream first", func(t *testing.T, c *net.TCPConn) {
			b, err := readAll(t, c)
			if !bytes.Equal(b, piece) || err != nil {
				t.Errorf("the server read %d octets, %v", len(b), err)
			}
			c.Write(piece)
		}, func(t *testing.T, s tunnel.Stream) {
			s.Write(piece)
			s.CloseWrite()
			if b, err := readAll(t, s); !bytes.Equal(b, piece) || err != nil {
				t.Errorf("the program read %d octets, %v", len(b), err)
			}
			if _, err := s.Write(piece); !errors.Is(err, net.ErrClosed) {
				t.Errorf("writing after the end: %v", err)
			}
		}},
		{"the server resets", func(t *testing.T, c *net.TCPConn) {
			c.Read(make([]byte, 1))
			c.SetLinger(0)
			c.Close()
		}, func(t *testing.T, s tunnel.Stream) {
			s.Write([]byte("x"))
			if _, err := readAll(t, s); !errors.Is(err, syscall.ECONNRESET) || tunnel.CodeOf(err) != tunnel.Reset {
				t.Errorf("the program read %v", err)
			}
			for err := error(nil); err == nil; {
				if _, err = s.Write(piece); err != nil && tunnel.CodeOf(err) != tunnel.Reset {
					t.Errorf("the program wrote %v", err)
				}
			}
		}},
		{"the program resets", func(t *testing.T, c *net.TCPConn) {
			if _, err := readAll(t, c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server read %v", err)
			}
		}, func(t *testing.T, s tunnel.Stream) {
			s.Write([]byte("x"))
			s.Abort(tunnel.Reset)
			if _, err := s.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Reset {
				t.Errorf("reading after a reset: %v", err)
			}
		}},
		{"the program closes, and what it wrote arrives", func(t *testing.T, c *net.TCPConn) {
			time.Sleep(50 * time.Millisecond)
			if b, err := readAll(t, c); !bytes.Equal(b, piece) || err != nil {
				t.Errorf("the server read %d octets, %v", len(b), err)
			}
		}, func(t *testing.T, s tunnel.Stream) {
			s.Write(piece)
			s.Close()
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("reading after the end: %v", err)
			}
		}},
		{"the program closes, and a server that goes on is told", func(t *testing.T, c *net.TCPConn) {
			for end := time.Now().Add(20 * time.Second); ; {
				if _, err := c.Write(piece); err != nil {
					return
				}
				if time.Now().After(end) {
					t.Error("the server was not told")
					return
				}
			}
		}, func(t *testing.T, s tunnel.Stream) {
			s.Read(make([]byte, 1))
			s.Close()
		}},
		{"the program closes, and a server that waits is told", func(t *testing.T, c *net.TCPConn) {
			if b, err := readAll(t, c); len(b) != 0 || err != nil {
				t.Errorf("the server read %d octets, %v", len(b), err)
			}
		}, func(t *testing.T, s tunnel.Stream) { s.Close() }},
		{"a write that waits ends when the program closes", func(t *testing.T, c *net.TCPConn) {
			time.Sleep(200 * time.Millisecond)
		}, func(t *testing.T, s tunnel.Stream) {
			time.AfterFunc(50*time.Millisecond, func() { s.Close() })
			var err error
			for err == nil {
				_, err = s.Write(piece)
			}
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("the write ended with %v", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, client := ends(t, dialer)
			served := make(chan struct{})
			to := server(t, func(conn *net.TCPConn) {
				defer close(served)
				c.server(t, conn)
			})
			s := open(t, e, to)
			c.program(t, s)
			<-served
			s.Close()
			nothingLeft(t, e, client)
		})
	}
}

// TestFailures: why a client did not connect is known at the edge.
func TestFailures(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	fails := func(err error) handler {
		return handler{dial: func(context.Context, tunnel.Open) (net.Conn, error) { return nil, err }}
	}
	for _, c := range []struct {
		name string
		h    handler
		code tunnel.Code
		text string
	}{
		{"refused", dialer, tunnel.Refused, ""},
		{"denied", fails(tunnel.Errorf(tunnel.Denied, "not allowed")), tunnel.Denied, "not allowed"},
		{"unreachable", fails(syscall.EHOSTUNREACH), tunnel.HostUnreachable, ""},
		{"timed out", fails(context.DeadlineExceeded), tunnel.TimedOut, ""},
		{"an error that is not for the other side", fails(errors.New("/home/me/secret")), tunnel.Internal, ""},
	} {
		for _, network := range []string{"tcp", "udp"} {
			if network == "udp" && c.name == "refused" {
				continue // TestDatagramsRefused
			}
			t.Run(c.name+" "+network, func(t *testing.T) {
				e, client := ends(t, c.h)
				o := tunnel.Open{Network: network, Addr: closed}
				for range 50 {
					var err error
					if network == "tcp" {
						_, err = e.OpenStream(context.Background(), o)
					} else {
						_, err = e.OpenDatagrams(context.Background(), o)
					}
					var failed *tunnel.Error
					if !errors.As(err, &failed) || failed.Code != c.code || failed.Text != c.text {
						t.Fatalf("%v", err)
					}
				}
				nothingLeft(t, e, client)
			})
		}
	}
}

// TestImpatience: a client stops connecting when the edge waits no more, however that comes.
func TestImpatience(t *testing.T) {
	for _, c := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
		code tunnel.Code
	}{
		{"deadline", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 50*time.Millisecond)
		}, tunnel.TimedOut},
		{"cancelled", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		}, tunnel.Reset},
	} {
		t.Run(c.name, func(t *testing.T) {
			stopped := make(chan struct{})
			e, client := ends(t, handler{dial: func(ctx context.Context, _ tunnel.Open) (net.Conn, error) {
				<-ctx.Done()
				close(stopped)
				return nil, ctx.Err()
			}})
			ctx, cancel := c.ctx()
			defer cancel()
			_, err := e.OpenStream(ctx, tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
			if tunnel.CodeOf(err) != c.code {
				t.Errorf("%v", err)
			}
			select {
			case <-stopped:
			case <-time.After(10 * time.Second):
				t.Error("the client goes on connecting")
			}
			nothingLeft(t, e, client)
		})
	}
}

// TestStatusSurvivesReset: the STATUS of a flow that is reset at once is not lost, and without partial delivery at least
// the code is not.
func TestStatusSurvivesReset(t *testing.T) {
	for _, partial := range []bool{true, false} {
		c := configs{}.orDefault()
		c.client.EnableStreamResetPartialDelivery = partial
		a, b := loopback(t)
		edge, client := connected(t, a, b, c)
		e, cl := joined(t, edge, client, handler{dial: func(context.Context, tunnel.Open) (net.Conn, error) {
			return brokenConn{}, nil
		}})
		for range 200 {
			s, err := e.OpenStream(context.Background(), tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
			if err == nil {
				_, err = s.Read(make([]byte, 1))
				s.Close()
			} else if partial {
				t.Fatalf("the STATUS was lost: %v", err)
			}
			if tunnel.CodeOf(err) != tunnel.Reset {
				t.Fatalf("partial delivery %v: %v", partial, err)
			}
		}
		nothingLeft(t, e, cl)
	}
}

// brokenConn is a connection that is reset as soon as anybody looks.
type brokenConn struct{ net.Conn }

func (brokenConn) Read([]byte) (int, error)         { return 0, syscall.ECONNRESET }
func (brokenConn) Write([]byte) (int, error)        { return 0, syscall.ECONNRESET }
func (brokenConn) Close() error                     { return nil }
func (brokenConn) SetReadDeadline(time.Time) error  { return nil }
func (brokenConn) SetWriteDeadline(time.Time) error { return nil }
func (brokenConn) LocalAddr() net.Addr              { return nil }
func (brokenConn) RemoteAddr() net.Addr             { return nil }

// pattern is as many octets as wanted, the same for one seed.
type pattern struct {
	left int64
	rand *rand.ChaCha8
	sum  hash.Hash
}

func newPattern(seed byte, size int64) *pattern {
	return &pattern{size, rand.NewChaCha8([32]byte{seed}), sha256.New()}
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	p.rand.Read(b)
	p.sum.Write(b)
	p.left -= int64(len(b))
	return len(b), nil
}

// TestIntegrity: what arrives is what was sent, in both directions at the same time.
func TestIntegrity(t *testing.T) {
	sizes := []int64{1, 64 << 10, 256 << 20}
	if testing.Short() {
		sizes[2] = 16 << 20
	}
	for _, size := range sizes {
		e, _ := ends(t, dialer)
		down, got := newPattern(1, size), make(chan []byte, 1)
		to := server(t, func(c *net.TCPConn) {
			var both sync.WaitGroup
			both.Go(func() { io.Copy(struct{ io.Writer }{c}, down); c.CloseWrite() })
			h := sha256.New()
			io.Copy(h, c)
			both.Wait()
			got <- h.Sum(nil)
		})
		s := open(t, e, to)
		up := newPattern(2, size)
		var sending sync.WaitGroup
		sending.Go(func() {
			s.(io.ReaderFrom).ReadFrom(up)
			s.CloseWrite()
		})
		h := sha256.New()
		n, err := s.(io.WriterTo).WriteTo(h)
		arrived := <-got
		sending.Wait()
		if err != nil || n != size || !bytes.Equal(h.Sum(nil), down.sum.Sum(nil)) {
			t.Errorf("%d octets down: %d came, %v", size, n, err)
		}
		if !bytes.Equal(arrived, up.sum.Sum(nil)) {
			t.Errorf("%d octets up arrived changed", size)
		}
	}
}

// TestManyFlows: flows leave nothing behind, one after the other or all at once.
func TestManyFlows(t *testing.T) {
	e, c := ends(t, handler{dial: func(context.Context, tunnel.Open) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			io.Copy(b, b)
			b.Close()
		}()
		return a, nil
	}})
	echo := func() error {
		s, err := e.OpenStream(context.Background(), tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
		if err != nil {
			return err
		}
		defer s.Close()
		b := []byte("hello")
		if _, err := s.Write(b); err != nil {
			return err
		}
		_, err = io.ReadFull(s, b)
		return err
	}
	sequential, parallel := 10_000, 2_000
	if testing.Short() {
		sequential, parallel = 500, 200
	}
	for i := range sequential {
		if err := echo(); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			if err := echo(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	nothingLeft(t, e, c)
}

// TestQueries: questions are answered, also long ones, and failures are told apart.
func TestQueries(t *testing.T) {
	long := bytes.Repeat([]byte("long"), 16_000)
	e, c := ends(t, handler{query: func(ctx context.Context, q tunnel.Query) ([]byte, error) {
		switch string(q.Message[12:]) {
		case "none":
			return nil, tunnel.Errorf(tunnel.NameFailed, "no server answers")
		case "denied":
			return nil, tunnel.Errorf(tunnel.Denied, "suffix")
		case "short":
			return []byte("short"), nil
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if q.Owner != (tunnel.Owner{Space: "default", App: "app", Sandbox: "7f3a9c"}) {
			t.Errorf("the owner is %+v", q.Owner)
		}
		return q.Message, nil
	}})
	ask := func(ctx context.Context, question string) ([]byte, error) {
		answer, by, err := e.Query(ctx, tunnel.Query{
			Owner: tunnel.Owner{Space: "default", App: "app", Sandbox: "7f3a9c"}, Message: append(make([]byte, 12), question...),
		})
		if by != who {
			t.Errorf("answered by %v", by)
		}
		return answer, err
	}
	for _, q := range []string{"", "hello", string(long)} {
		if answer, err := ask(context.Background(), q); err != nil || string(answer[12:]) != q {
			t.Errorf("%d octets: %d came back, %v", len(q), len(answer), err)
		}
	}
	for q, code := range map[string]tunnel.Code{"none": tunnel.NameFailed, "denied": tunnel.Denied, "short": tunnel.NameFailed} {
		if _, err := ask(context.Background(), q); tunnel.CodeOf(err) != code {
			t.Errorf("%s: %v", q, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := ask(ctx, "slow"); tunnel.CodeOf(err) != tunnel.TimedOut {
		t.Errorf("slow: %v", err)
	}
	if _, err := ask(context.Background(), string(make([]byte, 65536))); tunnel.CodeOf(err) != tunnel.Malformed {
		t.Errorf("too long: %v", err)
	}
	nothingLeft(t, e, c)
}
