package netstack

import (
	"context"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/weir-dev/weir/flow"
)

type writevFunc func(fd int, bufs [][]byte) error

func writev(fd int, bufs [][]byte) error { return nil }

type filter struct{}

func newFilter(Config) filter { return filter{} }

func (e *endpoint) readLoop() error { return nil }
func (e *endpoint) interrupt()      {}
func (e *endpoint) writeIP(proto tcpip.NetworkProtocolNumber, pkt []byte) error {
	return nil
}
func (e *endpoint) WritePackets(stack.PacketBufferList) (int, tcpip.Error) { return 0, nil }
func (s *Stack) installTCP(h flow.Handler)                                 {}

// Listen listens for TCP connections from the sandbox on one of the gateway's addresses.
func (s *Stack) Listen(at netip.AddrPort) (net.Listener, error) { return nil, nil }

// ListenPacket receives UDP datagrams from the sandbox on one of the gateway's addresses.
func (s *Stack) ListenPacket(at netip.AddrPort) (net.PacketConn, error) { return nil, nil }

// DialTCP opens a TCP connection from the gateway into the sandbox.
func (s *Stack) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return nil, nil }
