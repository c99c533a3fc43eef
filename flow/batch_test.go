package flow_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/testnet"
)

// batchConn is the end of a flow that a door with batches would return: the test gives it what the program sends, and
// keeps what comes back.
type batchConn struct {
	*testnet.Conn // for what is read one by one
	batches       chan [][]byte
	closed        chan struct{}
	once          sync.Once
	tried         []int // how many TryBatch took, and -1 for what WriteBatch had to take

	mu   sync.Mutex
	down [][]byte
}

func (c *batchConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *batchConn) WriteBatch(datagrams [][]byte) (n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range datagrams {
		c.down = append(c.down, bytes.Clone(d))
		n += int64(len(d))
	}
	return n, nil
}

func (c *batchConn) Forward(sink flow.BatchSink) error {
	for {
		select {
		case <-c.closed:
			return net.ErrClosed
		case b, ok := <-c.batches:
			if !ok {
				return os.ErrDeadlineExceeded
			}
			n, err := sink.TryBatch(b)
			c.tried = append(c.tried, n)
			if err == nil && n < len(b) {
				c.tried = append(c.tried, -1)
				err = sink.WriteBatch(b[n:])
			}
			if err != nil {
				return err
			}
		}
	}
}

// udpWay is a way out to a socket of the loopback.
type udpWay struct{ server *net.UDPConn }

func (u udpWay) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, u.server.LocalAddr().String())
}

// What needs a second look gets it in a batch, too, wherever it stands; the rest is not held up, and what left is what the
// book says.
func TestBatchesAreJudged(t *testing.T) {
	body := dtlsHello("evil.example")
	n := byte(len(body))
	dtls := append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, n + 12, 1, 0, 0, n, 0, 0, 0, 0, 0, 0, 0, n}, body...)
	foreign := slices.Concat([]byte{0xc0, 0xfa, 0xce, 0xb0, 0x0c, 1, 'x', 0}, make([]byte, 100))
	media := slices.Concat([]byte{0x80, 96, 0, 1}, make([]byte, 160))
	for _, c := range []struct {
		name  string
		batch [][]byte
		leave []int // indices into batch
		tried []int
		close string
	}{
		{"plain", [][]byte{[]byte("\x01a"), {}, []byte("\x01b")}, []int{0, 1, 2}, []int{3}, "timeout"},
		{"media", [][]byte{media, media}, []int{0, 1}, []int{2}, "timeout"},
		{"a DTLS hello of another name", [][]byte{[]byte("\x01a"), dtls, []byte("\x01b")}, []int{0}, []int{1, -1}, "policy"},
		{"a DTLS hello first", [][]byte{dtls, []byte("\x01b")}, nil, []int{0, -1}, "policy"},
		{"a foreign version", [][]byte{[]byte("\x01a"), foreign, []byte("\x01b")}, []int{0, 2}, []int{1, -1}, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := uint16(443)
			if c.name == "media" {
				port = 80 // on 443 it would be a QUIC version that nobody knows
			}
			w := newWorld(t, enforce("good.example"))
			w.asked[goodAddr.Addr()] = []string{"good.example"}
			server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			w.gate.Routes["direct"] = udpWay{server}
			inside, gates := testnet.Pair()
			conn := &batchConn{Conn: gates, batches: make(chan [][]byte, 1), closed: make(chan struct{})}
			handled := make(chan struct{})
			go func() {
				defer close(handled)
				w.gate.Handle(t.Context(), flow.Arrival{Network: "udp", Src: source, Dst: netip.AddrPortFrom(goodAddr.Addr(), port),
					Accept: func() (net.Conn, error) { return conn, nil }, Reject: func(flow.Reason) error { return nil }})
			}()
			inside.Write([]byte("\x01first"))
			want := [][]byte{[]byte("\x01first")}
			sent := len("\x01first")
			for _, i := range c.leave {
				want = append(want, c.batch[i])
				sent += len(c.batch[i])
			}
			b := make([]byte, 2048)
			server.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, peer, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatal(err)
			}
			server.WriteToUDPAddrPort([]byte("answer"), peer)
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				conn.mu.Lock()
				down := len(conn.down)
				conn.mu.Unlock()
				if down == 1 || time.Now().After(end) {
					break
				}
			}
			conn.batches <- c.batch
			close(conn.batches)
			<-handled
			got := [][]byte{[]byte("\x01first")}
			server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			for {
				n, _, err := server.ReadFromUDPAddrPort(b)
				if err != nil {
					break
				}
				got = append(got, bytes.Clone(b[:n]))
			}
			if !slices.EqualFunc(got, want, bytes.Equal) || !slices.Equal(conn.tried, c.tried) {
				t.Errorf("%q left, want %q; tried %v", got, want, conn.tried)
			}
			closed := w.events[len(w.events)-1].Details.(*event.Close)
			if closed.Close != c.close || closed.BytesSent != uint64(sent) || closed.BytesReceived != 6 || len(conn.down) != 1 {
				t.Errorf("closed with %q, sent %d, received %d; want %q, %d, 6", closed.Close, closed.BytesSent, closed.BytesReceived, c.close, sent)
			}
		})
	}
}
