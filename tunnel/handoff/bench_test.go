//go:build linux

package handoff

import (
	"context"
	"io"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// endless is a client's stream that sends as much as is read, and takes all that is written.
type endless struct {
	tunnel.Stream
	left   int
	wrote  int
	closed chan struct{}
}

func (e *endless) By() tunnel.Identity { return client }

func (e *endless) Read(b []byte) (int, error) {
	n := min(len(b), e.left)
	e.left -= n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (e *endless) Write(b []byte) (int, error) {
	e.wrote += len(b)
	return len(b), nil
}

func (e *endless) CloseWrite() error { close(e.closed); return nil }
func (e *endless) Close() error      { return nil }

// BenchmarkStream is what the sockets and the relay between a data path and a session cost, without either.
func BenchmarkStream(b *testing.B) {
	c := &fakeClient{}
	e := newEdge(b, c, Options{}, true)
	open := func(stream tunnel.Stream) tunnel.Stream {
		c.onStream(func(context.Context, tunnel.Open) (tunnel.Stream, error) { return stream, nil })
		s, err := e.OpenStream(b.Context(), tunnel.Open{Addr: destination})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	const piece = 64 << 10
	b.Run("up", func(b *testing.B) {
		far := &endless{closed: make(chan struct{})}
		s := open(far)
		b.SetBytes(piece)
		buf := make([]byte, piece)
		for b.Loop() {
			s.Write(buf)
		}
		s.CloseWrite()
		<-far.closed
		s.Close()
	})
	b.Run("down", func(b *testing.B) {
		far := &endless{closed: make(chan struct{}), left: 1 << 60}
		s := open(far)
		b.SetBytes(piece)
		buf := make([]byte, piece)
		for b.Loop() {
			io.ReadFull(s, buf)
		}
		s.Abort(tunnel.Reset)
	})
}

// BenchmarkDatagrams is the same for datagrams of 1200 octets, in batches of 16.
func BenchmarkDatagrams(b *testing.B) {
	c, f := &fakeClient{}, newFakeDatagrams()
	e := newEdge(b, c, Options{}, true)
	c.onDatagrams(func(context.Context, tunnel.Open) (tunnel.Datagrams, error) { return batchedDatagrams{f}, nil })
	d, err := e.OpenDatagrams(b.Context(), tunnel.Open{Addr: destination})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	go func() {
		for {
			select {
			case <-f.sent:
			case <-f.closed:
				return
			}
		}
	}()
	batch := make([][]byte, 16)
	for i := range batch {
		batch[i] = make([]byte, 1200)
	}
	n := 0
	for b.Loop() {
		d.(*Datagrams).SendBatch(batch)
		n += len(batch)
	}
	b.ReportMetric(float64(n)-float64(d.(*Datagrams).Dropped()), "carried")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/datagram")
}

func (e *endless) Abort(tunnel.Code) {}
