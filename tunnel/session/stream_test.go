package session

import (
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// server listens for TCP connections on the loopback interface and gives each to serve.
func server(t testing.TB, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// dialer is a Handler that connects to where the edge says, and answers a query with itself.
var dialer = handler{
	dial: func(ctx context.Context, o tunnel.Open) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, o.Network, o.Addr.String())
	},
	query: func(_ context.Context, q tunnel.Query) ([]byte, error) { return q.Message, nil },
}

func TestEcho(t *testing.T) {
	e, _ := ends(t, dialer)
	to := server(t, func(c *net.TCPConn) { io.Copy(c, c); c.CloseWrite() })
	for _, size := range []int{0, 1, 64 << 10, 8 << 20} {
		s, err := e.OpenStream(context.Background(), tunnel.Open{Network: "tcp", Addr: to})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		go func() {
			s.Write(data)
			s.CloseWrite()
		}()
		h := sha256.New()
		n, err := io.Copy(h, s)
		if err != nil || n != int64(size) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
			t.Errorf("%d octets: %d came back, %v", size, n, err)
		}
		s.Close()
	}
	if n := e.Stats().Flows; n != 0 {
		t.Errorf("%d flows are open", n)
	}
}
