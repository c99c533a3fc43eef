//go:build linux

package handoff

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// fakeDatagrams is the edge's end of a client's UDP flow: what is sent is in sent, what the test puts in comes.
type fakeDatagrams struct {
	sent, come chan []byte
	largest    atomic.Int64
	end        chan error
	once       sync.Once
	closed     chan struct{}
}

func newFakeDatagrams() *fakeDatagrams {
	f := &fakeDatagrams{sent: make(chan []byte, 1024), come: make(chan []byte, 1024), end: make(chan error, 1), closed: make(chan struct{})}
	f.largest.Store(1195)
	return f
}

func (f *fakeDatagrams) Send(b []byte) error {
	select {
	case f.sent <- bytes.Clone(b):
	case <-f.closed:
	}
	return nil
}

func (f *fakeDatagrams) Receive(b []byte) (int, error) {
	select {
	case d := <-f.come:
		return copy(b, d), nil
	default:
	}
	select {
	case d := <-f.come:
		return copy(b, d), nil
	case err := <-f.end:
		return 0, err
	case <-f.closed:
		return 0, net.ErrClosed
	}
}

func (f *fakeDatagrams) MaxDatagram() int    { return int(f.largest.Load()) }
func (f *fakeDatagrams) By() tunnel.Identity { return client }
func (f *fakeDatagrams) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

// batchedDatagrams is one that passes many at a time.
type batchedDatagrams struct{ *fakeDatagrams }

func (f batchedDatagrams) SendBatch(list [][]byte) error {
	for _, d := range list {
		f.Send(d)
	}
	return nil
}

func (f batchedDatagrams) ReceiveBatch(take func([][]byte) error) error {
	b := make([]byte, maxDatagram)
	for {
		n, err := f.Receive(b)
		if err != nil {
			return err
		}
		if err := take([][]byte{b[:n]}); err != nil {
			return err
		}
	}
}

func (e *edge) openDatagrams(t *testing.T, c *fakeClient, d tunnel.Datagrams) *Datagrams {
	t.Helper()
	c.onDatagrams(func(context.Context, tunnel.Open) (tunnel.Datagrams, error) { return d, nil })
	flow, err := e.OpenDatagrams(t.Context(), tunnel.Open{Network: "udp", Addr: destination})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flow.Close() })
	return flow.(*Datagrams)
}

var datagramSizes = []int{0, 1, 1163, 1195, 1472, 9000, 0, maxDatagram, 0}

// TestDatagrams carries datagrams of all sizes both ways, one at a time and in batches: none is changed, joined or split.
func TestDatagrams(t *testing.T) {
	for name, wrap := range map[string]func(*fakeDatagrams) tunnel.Datagrams{
		"one at a time": func(f *fakeDatagrams) tunnel.Datagrams { return f },
		"batched":       func(f *fakeDatagrams) tunnel.Datagrams { return batchedDatagrams{f} },
	} {
		t.Run(name, func(t *testing.T) {
			c, f := &fakeClient{}, newFakeDatagrams()
			e := newEdge(t, c, Options{}, true)
			d := e.openDatagrams(t, c, wrap(f))
			var list [][]byte
			for i, size := range datagramSizes {
				list = append(list, bytes.Repeat([]byte{byte(i)}, size))
			}
			if err := d.SendBatch(list); err != nil {
				t.Fatal(err)
			}
			for _, want := range list {
				if got := <-f.sent; !bytes.Equal(got, want) {
					t.Errorf("%d octets came to the client, want %d", len(got), len(want))
				}
			}
			for _, want := range list {
				d.Send(want)
				if got := <-f.sent; !bytes.Equal(got, want) {
					t.Errorf("%d octets came to the client alone, want %d", len(got), len(want))
				}
				f.come <- want
				b := make([]byte, maxDatagram)
				if n, err := d.Receive(b); err != nil || !bytes.Equal(b[:n], want) {
					t.Errorf("%d octets and %v came to the data path, want %d", n, err, len(want))
				}
			}
			if d.Dropped() != 0 {
				t.Errorf("%d were dropped", d.Dropped())
			}
		})
	}
}

// TestDatagramNotices: the data path knows how large a datagram may be, and hears of changes and of the end.
func TestDatagramNotices(t *testing.T) {
	c, f := &fakeClient{}, newFakeDatagrams()
	e := newEdge(t, c, Options{}, true)
	d := e.openDatagrams(t, c, f)
	if d.MaxDatagram() != 1195 {
		t.Errorf("the largest datagram has %d octets", d.MaxDatagram())
	}
	f.largest.Store(1415)
	f.come <- []byte("x")
	f.end <- tunnel.Errorf(tunnel.Refused, "nobody listens")
	var got [][]byte
	err := d.ReceiveBatch(func(list [][]byte) error {
		for _, b := range list {
			got = append(got, bytes.Clone(b))
		}
		return nil
	})
	if tunnel.CodeOf(err) != tunnel.Refused || len(got) != 1 || d.MaxDatagram() != 1415 {
		t.Errorf("received %q, then %v; the largest has %d octets", got, err, d.MaxDatagram())
	}
	if err := d.Send([]byte("x")); tunnel.CodeOf(err) != tunnel.Refused {
		t.Errorf("Send after the end: %v", err)
	}
}

// TestDatagramEnds: closing reaches the client, and the end of the edge the data path.
func TestDatagramEnds(t *testing.T) {
	c, f := &fakeClient{}, newFakeDatagrams()
	e := newEdge(t, c, Options{}, true)
	d := e.openDatagrams(t, c, f)
	go d.Close()
	if _, err := d.Receive(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive of a closed flow: %v", err)
	}
	<-f.closed
	d = e.openDatagrams(t, c, newFakeDatagrams())
	e.stop()
	if _, err := d.Receive(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("Receive after the edge's end: %v", err)
	}
}

// TestDatagramsThatNobodyReads are lost and counted, on either side; nobody waits.
func TestDatagramsThatNobodyReads(t *testing.T) {
	c, f := &fakeClient{}, newFakeDatagrams()
	f.sent = make(chan []byte) // the client takes none
	e := newEdge(t, c, Options{}, true)
	d := e.openDatagrams(t, c, f)
	big := make([]byte, maxDatagram)
	for d.Dropped() == 0 {
		if err := d.Send(big); err != nil {
			t.Fatal(err)
		}
	}
	for e.counters.DatagramsDropped.Load() == 0 {
		f.come <- big
	}
	d.Close()
	for { // let the flow end
		select {
		case <-f.sent:
		case <-f.closed:
			return
		}
	}
}
