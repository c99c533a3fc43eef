package session

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

const benchPiece = 128 << 10

// BenchmarkBare is what one stream of quic-go carries: the bound of what a session can.
func BenchmarkBare(b *testing.B) {
	x, y := loopback(b)
	edge, client := connected(b, x, y, configs{})
	go func() {
		q, err := client.AcceptStream(context.Background())
		if err != nil {
			return
		}
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{q}, make([]byte, benchPiece))
		q.Close()
	}()
	q, err := edge.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, benchPiece)
	b.SetBytes(benchPiece)
	b.ResetTimer()
	for range b.N {
		if _, err := q.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	q.Close()
	io.Copy(io.Discard, q)
}

// BenchmarkUp is a program that sends to a TCP server behind the client: two sockets and a session.
func BenchmarkUp(b *testing.B) {
	e, _ := ends(b, dialer)
	to := server(b, func(c *net.TCPConn) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, benchPiece))
		c.CloseWrite()
	})
	program := programOf(b, e, to)
	piece := make([]byte, benchPiece)
	b.SetBytes(benchPiece)
	b.ResetTimer()
	for range b.N {
		if _, err := program.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	program.CloseWrite()
	io.Copy(io.Discard, program)
}

// BenchmarkDown is the other direction.
func BenchmarkDown(b *testing.B) {
	e, _ := ends(b, dialer)
	to := server(b, func(c *net.TCPConn) {
		piece := make([]byte, benchPiece)
		for range b.N {
			c.Write(piece)
		}
	})
	b.SetBytes(benchPiece)
	b.ResetTimer()
	program := programOf(b, e, to)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{program}, make([]byte, benchPiece))
	if err != nil || n != int64(b.N)*benchPiece {
		b.Fatal(n, err)
	}
}

// programOf is a UNIX socket whose other end is carried by a flow, as between a data path and an edge.
func programOf(b testing.TB, e *Edge, to netip.AddrPort) *net.UnixConn {
	b.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.TempDir() + "/s", Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	program, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { program.Close() })
	end, err := l.AcceptUnix()
	if err != nil {
		b.Fatal(err)
	}
	s, err := e.OpenStream(context.Background(), tunnel.Open{Network: "tcp", Addr: to})
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		s.(io.ReaderFrom).ReadFrom(end)
		s.CloseWrite()
	}()
	go func() {
		s.(io.WriterTo).WriteTo(end)
		end.CloseWrite()
	}()
	return program
}

// BenchmarkDatagrams sends datagrams of 1200 octets to a UDP server behind the client, as fast as they are taken, and says
// how many came.
func BenchmarkDatagrams(b *testing.B) {
	e, _ := ends(b, dialer)
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	sink.SetReadBuffer(8 << 20)
	var came atomic.Int64
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, err := sink.Read(buf); err != nil {
				return
			}
			came.Add(1)
		}
	}()
	d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: sink.LocalAddr().(*net.UDPAddr).AddrPort()})
	if err != nil {
		b.Fatal(err)
	}
	for d.MaxDatagram() < 1200 { // until the path's size is known
		e.Probe(context.Background(), 1000)
		time.Sleep(10 * time.Millisecond)
	}
	var batch [16][]byte
	for i := range batch {
		batch[i] = make([]byte, 1200)
	}
	b.ResetTimer()
	start := time.Now()
	for sent := 0; sent < b.N; sent += len(batch) {
		for d.(*datagrams).x.schedule.waiting(d.(*datagrams).udpFlow) > ringDatagrams/2 {
			time.Sleep(50 * time.Microsecond)
		}
		d.(tunnel.Batched).SendBatch(batch[:])
	}
	for last := int64(-1); last != came.Load(); time.Sleep(20 * time.Millisecond) {
		last = came.Load()
	}
	if e.Err() != nil {
		b.Fatal(e.Err())
	}
	b.ReportMetric(float64(came.Load())/(time.Since(start)-40*time.Millisecond).Seconds(), "came/s")
	b.ReportMetric(100*(1-float64(came.Load())/float64((b.N+15)/16*16)), "lost%")
}

// BenchmarkBareDatagrams is what quic-go carries of them.
func BenchmarkBareDatagrams(b *testing.B) {
	x, y := loopback(b)
	edge, client := connected(b, x, y, configs{})
	var came atomic.Int64
	go func() {
		for {
			if _, err := client.ReceiveDatagram(context.Background()); err != nil {
				return
			}
			came.Add(1)
		}
	}()
	d := make([]byte, 1202)
	for edge.SendDatagram(d) != nil { // until the path's size is known
		q, _ := edge.OpenStream()
		q.Write(d)
		q.Close()
		time.Sleep(10 * time.Millisecond)
	}
	came.Store(0)
	b.ResetTimer()
	start := time.Now()
	for range b.N {
		if err := edge.SendDatagram(d); err != nil {
			b.Fatal(err)
		}
	}
	for last := int64(-1); last != came.Load(); time.Sleep(20 * time.Millisecond) {
		last = came.Load()
	}
	b.ReportMetric(float64(came.Load())/(time.Since(start)-40*time.Millisecond).Seconds(), "came/s")
	b.ReportMetric(100*(1-float64(came.Load())/float64(b.N)), "lost%")
}
