package netstack

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// BenchmarkUDPWrite is the cost of one datagram of 1200 bytes towards the sandbox, its system call included.
func BenchmarkUDPWrite(b *testing.B) {
	conns := make(chan net.Conn)
	g := newGuest(b, Limits{}, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		conn, _ := a.Accept()
		conns <- conn
		<-ctx.Done()
	}))
	src, dst := netip.AddrPortFrom(guest4, 4000), netip.MustParseAddrPort("192.0.2.1:443")
	g.send(header.IPv4ProtocolNumber, udpPacket4(src, dst, nil))
	conn := <-conns
	p := make([]byte, 1200)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		conn.Write(p)
	}
}

// BenchmarkUDPRead is the cost of one datagram of 1200 bytes from the sandbox, both system calls included.
func BenchmarkUDPRead(b *testing.B) {
	conns := make(chan net.Conn)
	g := newGuest(b, Limits{}, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		conn, _ := a.Accept()
		conns <- conn
		<-ctx.Done()
	}))
	src, dst := netip.AddrPortFrom(guest4, 4000), netip.MustParseAddrPort("192.0.2.1:443")
	pkt := udpPacket4(src, dst, make([]byte, 1200))
	g.send(header.IPv4ProtocolNumber, pkt)
	conn := <-conns
	p := make([]byte, 1500)
	conn.Read(p)
	b.SetBytes(1200)
	b.ReportAllocs()
	for b.Loop() {
		g.send(header.IPv4ProtocolNumber, pkt)
		if _, err := conn.Read(p); err != nil {
			b.Fatal(err)
		}
	}
}
