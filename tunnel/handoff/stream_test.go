//go:build linux

package handoff

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/testnet"
	"github.com/weir-dev/weir/tunnel"
)

var destination = netip.MustParseAddrPort("10.0.1.50:5432")

// TestOpen: the client is asked for what the data path wants, in the name of whom the edge knows, and its answer comes back.
func TestOpen(t *testing.T) {
	got := make(chan tunnel.Open, 1)
	c := &fakeClient{}
	e := newEdge(t, c, Options{}, true)
	near, far := testnet.Pair()
	defer far.Close()
	c.onStream(func(_ context.Context, o tunnel.Open) (tunnel.Stream, error) {
		got <- o
		return newFakeStream(near), nil
	})
	asked := tunnel.Open{Owner: tunnel.Owner{Space: "another", App: "liar"}, Flow: "7f3a9c-12", Network: "tcp", Addr: destination, Names: []string{"db.example", "x.example"}, Via: "laptop"}
	s, err := e.OpenStream(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	asked.Owner = me
	if got := <-got; !reflect.DeepEqual(got, asked) {
		t.Errorf("the client was asked for %+v, want %+v", got, asked)
	}
	if s.By() != client {
		t.Errorf("carried by %v", s.By())
	}
	for code := tunnel.Reset; code <= tunnel.Internal; code++ {
		c.onStream(func(context.Context, tunnel.Open) (tunnel.Stream, error) { return nil, tunnel.Errorf(code, "rule 3") })
		_, err := e.OpenStream(t.Context(), asked)
		var te *tunnel.Error
		if !errors.As(err, &te) || te.Code != code || te.Text != "rule 3" {
			t.Errorf("a client's %v came back as %v", code, err)
		}
	}
}

// TestGiveUp: an open whose context ends is given up at the edge as well, and one that has opened meanwhile is ended.
func TestGiveUp(t *testing.T) {
	c := &fakeClient{}
	e := newEdge(t, c, Options{}, true)
	asked, gone := make(chan struct{}), make(chan struct{})
	c.onStream(func(ctx context.Context, _ tunnel.Open) (tunnel.Stream, error) {
		close(asked)
		<-ctx.Done()
		close(gone)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := e.OpenStream(ctx, tunnel.Open{Addr: destination}); !errors.Is(err, context.Canceled) {
		t.Errorf("the open ended with %v", err)
	}
	<-gone
}

// TestCarry sends payloads both ways at once; the hashes must be those of what was sent, the ends in order.
func TestCarry(t *testing.T) {
	for _, size := range []int{0, 1, smallBuffer, 64 << 10, 8 << 20} {
		c := &fakeClient{}
		e := newEdge(t, c, Options{}, true)
		s, _, far := e.open(t, c)
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(rand.Uint32())
		}
		send := func(w io.Writer, end func() error) {
			w.Write(payload)
			end()
		}
		go send(s, s.CloseWrite)
		go send(far, far.CloseWrite)
		atFar := make(chan []byte)
		go func() {
			b, err := io.ReadAll(far)
			if err != nil {
				t.Errorf("the destination's stream ended with %v", err)
			}
			atFar <- b
		}()
		got, err := io.ReadAll(s)
		if err != nil {
			t.Errorf("%d octets: the data path's stream ended with %v", size, err)
		}
		for where, b := range map[string][]byte{"data path": got, "destination": <-atFar} {
			if sha256.Sum256(b) != sha256.Sum256(payload) {
				t.Errorf("%d octets: %d other ones came to the %s", size, len(b), where)
			}
		}
		s.Close()
	}
}

// TestEnds: FIN, reset and the loss of the tunnel or of a process are told apart on both sides.
func TestEnds(t *testing.T) {
	fill := bytes.Repeat([]byte("x"), 4<<20)
	for _, c := range []struct {
		name string
		do   func(e *edge, s *Stream, at *fakeStream, far *testnet.Conn)
		near any // tunnel.Code, or the error of the data path's Read
		far  error
	}{
		{"the destination half-closes", func(_ *edge, _ *Stream, _ *fakeStream, far *testnet.Conn) { far.CloseWrite() }, io.EOF, nil},
		{"the destination resets", func(_ *edge, _ *Stream, _ *fakeStream, far *testnet.Conn) { far.Abort() }, tunnel.Reset, nil},
		{"the tunnel is lost", func(_ *edge, _ *Stream, at *fakeStream, _ *testnet.Conn) { at.lose(tunnel.Lost) }, tunnel.Lost, nil},
		{"the client is revoked", func(_ *edge, _ *Stream, at *fakeStream, _ *testnet.Conn) { at.lose(tunnel.Revoked) }, tunnel.Revoked, nil},
		{"the edge ends", func(e *edge, _ *Stream, _ *fakeStream, _ *testnet.Conn) { e.stop() }, tunnel.Lost, syscall.ECONNRESET},
		{"the data path half-closes", func(_ *edge, s *Stream, _ *fakeStream, _ *testnet.Conn) { s.CloseWrite() }, nil, io.EOF},
		{"the data path closes", func(_ *edge, s *Stream, _ *fakeStream, _ *testnet.Conn) { s.Close() }, os.ErrClosed, io.EOF},
		{"the data path aborts", func(_ *edge, s *Stream, _ *fakeStream, _ *testnet.Conn) { s.Abort(tunnel.Reset) }, os.ErrClosed, syscall.ECONNRESET},
		{"the data path lingers for nothing", func(_ *edge, s *Stream, _ *fakeStream, _ *testnet.Conn) { s.SetLinger(0); s.Close() }, os.ErrClosed, syscall.ECONNRESET},
		{"the data path dies", func(e *edge, _ *Stream, _ *fakeStream, _ *testnet.Conn) { e.Conn.Close() }, tunnel.Lost, syscall.ECONNRESET},
		{"a full stream is reset", func(_ *edge, s *Stream, _ *fakeStream, far *testnet.Conn) {
			s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			s.Write(fill)
			s.SetWriteDeadline(time.Time{})
			far.Abort()
		}, tunnel.Reset, nil},
		{"what nobody reads is reset", func(_ *edge, s *Stream, _ *fakeStream, far *testnet.Conn) {
			far.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			far.Write(fill)
			s.Abort(tunnel.Reset)
		}, os.ErrClosed, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := &fakeClient{}
			e := newEdge(t, to, Options{}, true)
			s, at, far := e.open(t, to)
			c.do(e, s, at, far)
			if c.near != nil {
				_, err := io.Copy(io.Discard, onlyReader{s})
				if err == nil {
					err = io.EOF
				}
				if code, ok := c.near.(tunnel.Code); ok && tunnel.CodeOf(err) != code || !ok && !errors.Is(err, c.near.(error)) && !(c.near == os.ErrClosed && isClosed(err)) {
					t.Errorf("the data path reads %v, want %v", err, c.near)
				}
			}
			if c.far != nil {
				far.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err := io.Copy(io.Discard, onlyReader{far})
				if err == nil {
					err = io.EOF
				}
				if !errors.Is(err, c.far) {
					t.Errorf("the destination reads %v, want %v", err, c.far)
				}
			}
		})
	}
}

type onlyReader struct{ io.Reader }

// TestEndBeforeTheEdges: an edge that ends once a flow has ended takes nothing of it back, however late the data path reads.
func TestEndBeforeTheEdges(t *testing.T) {
	c := &fakeClient{}
	e := newEdge(t, c, Options{}, true)
	s, _, far := e.open(t, c)
	s.CloseWrite()
	io.ReadAll(far)
	io.WriteString(far, "the last words")
	far.CloseWrite()
	<-s.fin // the end has been told; nothing has been read
	e.stop()
	<-e.Done()
	if got, err := io.ReadAll(s); string(got) != "the last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// TestWriterLearns: who only writes learns as well how the flow ended.
func TestWriterLearns(t *testing.T) {
	c := &fakeClient{}
	e := newEdge(t, c, Options{}, true)
	s, at, _ := e.open(t, c)
	at.lose(tunnel.Lost)
	var err error
	for err == nil {
		_, err = s.Write([]byte("x"))
	}
	if tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("Write failed with %v", err)
	}
}

// TestCloseDelivers: what was written before Close, and before the data path's end, still comes to the destination.
func TestCloseDelivers(t *testing.T) {
	c := &fakeClient{}
	e := newEdge(t, c, Options{}, true)
	s, _, far := e.open(t, c)
	const size = 200 << 10
	go func() {
		s.Write(make([]byte, size))
		s.Close()
		e.Conn.Close()
	}()
	time.Sleep(10 * time.Millisecond) // the destination is slow
	got, err := io.ReadAll(far)
	if len(got) != size || err != nil {
		t.Errorf("%d octets and %v came, want %d", len(got), err, size)
	}
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
