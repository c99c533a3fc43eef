//go:build linux

package websocket

import (
	"io"
	"net"
	"testing"

	"github.com/quic-go/quic-go"
)

// BenchmarkThroughput measures one stream over plain QUIC and over QUIC in a WebSocket with TLS, both ends in this process.
// Run it with -count to have them take turns.
func BenchmarkThroughput(b *testing.B) {
	const chunk = 64 << 10
	buf := make([]byte, chunk)
	for _, direction := range []string{"up", "down"} {
		for _, transport := range []string{"quic", "websocket"} {
			b.Run(direction+"/"+transport, func(b *testing.B) {
				e := newEdge(b, ServerConfig{}, func(c *quic.Conn) {
					s, err := c.AcceptStream(c.Context())
					if err != nil {
						return
					}
					if direction == "up" {
						n, _ := io.CopyBuffer(io.Discard, struct{ io.Reader }{s}, make([]byte, chunk))
						s.Write([]byte{byte(n)})
						s.Close()
						return
					}
					s.Read(make([]byte, 1))
					for err == nil {
						_, err = s.Write(make([]byte, chunk))
					}
				})
				var c *quic.Conn
				if transport == "quic" {
					udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
					if err != nil {
						b.Fatal(err)
					}
					c = e.quicOver(b, udp, e.quic.Addr())
				} else {
					ws := e.dial(b, nil)
					c = e.quicOver(b, ws, ws.RemoteAddr())
				}
				s, err := c.OpenStream()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(chunk)
				if direction == "up" {
					for b.Loop() {
						if _, err := s.Write(buf); err != nil {
							b.Fatal(err)
						}
					}
					s.Close()
					io.ReadAll(s)
					return
				}
				s.Write([]byte{1})
				for b.Loop() {
					if _, err := io.ReadFull(s, buf); err != nil {
						b.Fatal(err)
					}
				}
				s.CancelRead(0)
			})
		}
	}
}
