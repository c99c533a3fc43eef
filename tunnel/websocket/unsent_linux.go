package websocket

import (
	"crypto/tls"
	"net"

	"golang.org/x/sys/unix"
)

// unsent is how much the kernel may hold that it has not sent yet, in octets: what it holds more is late, and QUIC does not
// know that it waits.
const unsent = 256 << 10

// limitUnsent keeps a connection's queue in our own hands. Where it cannot, there is more delay under load, no more.
func limitUnsent(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) })
	}
}
