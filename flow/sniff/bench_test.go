package sniff

import (
	"crypto/tls"
	"strings"
	"testing"
)

func realConfig() *tls.Config {
	return &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}}
}

func BenchmarkStream(b *testing.B) {
	huge := record(hello(sni("a.example"), ext(21, strings.Repeat("\x00", 16000))))
	for _, c := range []struct {
		name, in string
		piece    int
	}{
		{"tls", string(realHello(b, realConfig())), 1 << 20},
		{"tls in segments", string(realHello(b, realConfig())), 1000},
		{"16 KiB hello in octets", huge, 1},
		{"http", "GET /index.html HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x/1.0\r\nAccept: */*\r\n\r\n", 1 << 20},
		{"unknown", "EHLO client.example\r\n", 1 << 20},
	} {
		in := []byte(c.in)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				var s Stream
				for rest := in; len(rest) > 0; rest = rest[min(c.piece, len(rest)):] {
					s.Feed(rest[:min(c.piece, len(rest))])
				}
			}
		})
	}
}

func BenchmarkQUIC(b *testing.B) {
	packet := []byte(rfcPacket(b, "rfc9001-a2.hex"))
	b.Run("initial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var q QUIC
			q.Feed(packet)
		}
	})
	short := append([]byte{0x40}, packet[1:]...)
	b.Run("later datagram", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			IsInitial(short)
		}
	})
}

func BenchmarkWatch(b *testing.B) {
	line := []byte(strings.Repeat("x", 1400))
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		var w Watch
		w.Feed(line)
	}
}
