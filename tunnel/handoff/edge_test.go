//go:build linux

package handoff

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/testnet"
	"github.com/weir-dev/weir/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	me     = tunnel.Owner{Space: "default", App: "app", Sandbox: "7f3a9c"}
	client = tunnel.Identity{Space: "default", Client: "laptop"}
)

// fakeClient is the other end of all flows.
type fakeClient struct {
	mu        sync.Mutex
	stream    func(ctx context.Context, o tunnel.Open) (tunnel.Stream, error)
	datagrams func(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error)
	query     func(ctx context.Context, q tunnel.Query) ([]byte, error)
}

func (c *fakeClient) onStream(f func(context.Context, tunnel.Open) (tunnel.Stream, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream = f
}

func (c *fakeClient) onDatagrams(f func(context.Context, tunnel.Open) (tunnel.Datagrams, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.datagrams = f
}

func (c *fakeClient) onQuery(f func(context.Context, tunnel.Query) ([]byte, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.query = f
}

func (c *fakeClient) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	c.mu.Lock()
	f := c.stream
	c.mu.Unlock()
	return f(ctx, o)
}

func (c *fakeClient) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	c.mu.Lock()
	f := c.datagrams
	c.mu.Unlock()
	return f(ctx, o)
}

func (c *fakeClient) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	c.mu.Lock()
	f := c.query
	c.mu.Unlock()
	answer, err := f(ctx, q)
	return answer, client, err
}

// fakeStream is the edge's end of a client's stream.
type fakeStream struct {
	*testnet.Conn
	why     atomic.Int64 // a code, after lose
	aborted chan tunnel.Code
	once    sync.Once
}

func newFakeStream(c *testnet.Conn) *fakeStream {
	return &fakeStream{Conn: c, aborted: make(chan tunnel.Code, 1)}
}

func (s *fakeStream) By() tunnel.Identity { return client }

func (s *fakeStream) Abort(code tunnel.Code) {
	s.once.Do(func() { s.aborted <- code; s.Conn.Abort() })
}

// lose ends the stream as a session does.
func (s *fakeStream) lose(code tunnel.Code) {
	s.why.Store(int64(code))
	s.Conn.Abort()
}

func (s *fakeStream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	return n, s.explain(err)
}

func (s *fakeStream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, s.explain(err)
}

func (s *fakeStream) explain(err error) error {
	if errors.Is(err, syscall.ECONNRESET) {
		if code := s.why.Load(); code != 0 {
			return tunnel.Errorf(tunnel.Code(code), "as the test wants")
		}
		return tunnel.Errorf(tunnel.Reset, "")
	}
	return err
}

// edge is a data path's connection and the edge that serves it.
type edge struct {
	*Conn
	counters Counters
	raw      *net.UnixConn      // the data path's control socket, as a possessed one uses it
	stop     context.CancelFunc // ends the edge process
	served   chan error
}

// newEdge starts the edge's end; without conn the data path's is left to the test.
func newEdge(t testing.TB, to tunnel.Opener, o Options, conn bool) *edge {
	t.Helper()
	before := openFiles(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, err := unixConn(os.NewFile(uintptr(fds[0]), "edge"))
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{served: make(chan error, 1)}
	if f := os.NewFile(uintptr(fds[1]), "data path"); conn {
		if e.Conn, err = NewConn(f); err != nil {
			t.Fatal(err)
		}
	} else if e.raw, err = unixConn(f); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	o.Counters = &e.counters
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.served <- Serve(ctx, server, me, to, o)
	}()
	t.Cleanup(func() {
		cancel()
		if conn {
			e.Conn.Close()
			<-e.Conn.Done()
		} else {
			e.raw.Close()
		}
		<-done
		for name, n := range map[string]int64{"streams": e.counters.Streams.Load(), "datagrams": e.counters.Datagrams.Load(), "opening": e.counters.Opening.Load()} {
			if n != 0 {
				t.Errorf("%d %s are open after the end", n, name)
			}
		}
		if after := openFiles(t); after > before {
			t.Errorf("%d descriptors are open, %d were before", after, before)
		}
	})
	return e
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// open makes one flow: the data path's end of it, the edge's stream, and the destination's end.
func (e *edge) open(t *testing.T, c *fakeClient) (*Stream, *fakeStream, *testnet.Conn) {
	t.Helper()
	near, far := testnet.Pair()
	edgeEnd := newFakeStream(near)
	c.onStream(func(context.Context, tunnel.Open) (tunnel.Stream, error) { return edgeEnd, nil })
	s, err := e.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: destination})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); far.Close() })
	return s.(*Stream), edgeEnd, far
}
