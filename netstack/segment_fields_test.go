package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	flagSYN = header.TCPFlagSyn
	flagRST = header.TCPFlagRst
)

// segmentFields is a TCP segment that a test sends past the sandbox's stack.
type segmentFields struct {
	src, dst     netip.Addr
	sport, dport uint16
	seq          uint32
	flags        header.TCPFlags
	payload      []byte
}

// frame is the segment with its IPv4 and Ethernet headers.
func (f segmentFields) frame() []byte {
	const eth, ip = header.EthernetMinimumSize, header.IPv4MinimumSize
	b := make([]byte, eth+ip+header.TCPMinimumSize+len(f.payload))
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guestMAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: header.IPv4ProtocolNumber,
	})
	h := header.IPv4(b[eth:])
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(h)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(f.src.As4()), DstAddr: tcpip.AddrFrom4(f.dst.As4()),
	})
	h.SetChecksum(^h.CalculateChecksum())
	seg := header.TCP(b[eth+ip:])
	seg.Encode(&header.TCPFields{
		SrcPort: f.sport, DstPort: f.dport, SeqNum: f.seq, DataOffset: header.TCPMinimumSize, Flags: f.flags, WindowSize: 65535,
	})
	copy(seg[header.TCPMinimumSize:], f.payload)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(len(seg)))
	seg.SetChecksum(^checksum.Checksum(seg, sum))
	return b
}

// sendFrame sends one frame from the sandbox's end, with an empty vnet header where the link has one.
func (p *peer) sendFrame(frame []byte) {
	if p.link.vnet {
		frame = append(make([]byte, vnetHdrLen), frame...)
	}
	p.file.Write(frame)
}

// dialFrom is dial with a local address.
func (p *peer) dialFrom(local netip.AddrPort, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ap := netip.MustParseAddrPort(to)
	return gonet.DialTCPWithBind(ctx, p.inside, fullAddress(local), fullAddress(ap), networkProtocol(ap.Addr()))
}

// noEndpoints says whether the sandbox's stack has forgotten every connection, TIME_WAIT included.
func (p *peer) noEndpoints() bool {
	return len(p.inside.RegisteredEndpoints())+len(p.inside.CleanupEndpoints()) == 0
}

// listenInside runs an echo server in the sandbox until stop is called.
func (p *peer) listenInside(t *testing.T, at netip.AddrPort) (stop func()) {
	t.Helper()
	l, err := gonet.ListenTCP(p.inside, fullAddress(at), networkProtocol(at.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	return func() {
		l.Shutdown()
		l.Close()
		<-done
	}
}

// iovecBytes is what an iovec points at.
func iovecBytes(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
