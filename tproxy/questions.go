//go:build linux

package tproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Questions is a net.PacketConn for a resolver behind the door on the host: it gets the datagrams that were sent to any
// server, and what is written to their senders comes from that server. Replies are sent with a header of our own, since the
// address may be one that a server on this host is bound to.
type Questions struct {
	conn   *net.UDPConn
	raw    *unreachable
	server netip.AddrPort
}

// Asker is who a datagram came from, and where it was sent to.
type Asker struct{ From, To netip.AddrPort }

// Network and String implement net.Addr.
func (a Asker) Network() string { return "udp" }

// String is the sender's address.
func (a Asker) String() string { return a.From.String() }

// NewQuestions takes the socket (rules.KindDNS) over. raw are the sockets of rules.KindICMP, which stay the door's and are
// used as long as the conn is. server is what LocalAddr returns: the one that most questions are sent to.
func NewQuestions(f *os.File, raw []*os.File, server netip.AddrPort) (*Questions, error) {
	pc, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("open dns socket: %w", err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, errors.New("open dns socket: not a udp socket")
	}
	u, err := newUnreachable(raw)
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("open dns socket: %w", err)
	}
	return &Questions{conn: conn, raw: u, server: server}, nil
}

// ReadFrom implements net.PacketConn; the address is an [Asker]. What does not say where it was sent to is passed over.
func (q *Questions) ReadFrom(p []byte) (int, net.Addr, error) {
	oob := make([]byte, 256)
	for {
		n, oobn, _, src, err := q.conn.ReadMsgUDPAddrPort(p, oob)
		if err != nil {
			return 0, nil, err
		}
		if dst, ok := originalDst(oob[:oobn]); ok {
			return n, Asker{From: netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), To: dst}, nil
		}
	}
}

// WriteTo implements net.PacketConn for an [Asker].
func (q *Questions) WriteTo(p []byte, addr net.Addr) (int, error) {
	a, ok := addr.(Asker)
	if !ok {
		return 0, fmt.Errorf("write dns answer: %w", unix.EDESTADDRREQ)
	}
	if len(p) > maxDatagram-udpHeader-ipv4Header {
		return 0, fmt.Errorf("write dns answer: %w", unix.EMSGSIZE)
	}
	err := q.raw.inject(a.From.Addr(), datagram(a.To, a.From, p))
	if errors.Is(err, unix.EMSGSIZE) { // longer than the link takes: a packet of our own is not fragmented
		err = q.raw.inject(a.From.Addr(), datagram(a.To, a.From, truncated(p)))
	}
	if err != nil {
		return 0, fmt.Errorf("write dns answer: %w", err)
	}
	return len(p), nil
}

// truncated is a DNS answer without its records, which says that they are to be had over TCP (RFC 1035 section 4.1.1). What is
// none stays as it is.
func truncated(answer []byte) []byte {
	const header, tcBit = 12, 0x02
	end := header
	for end < len(answer) && answer[end] != 0 {
		end += 1 + int(answer[end])
	}
	end += 1 + 4 // the root, type and class
	if len(answer) < end || binary.BigEndian.Uint16(answer[4:]) != 1 {
		return answer
	}
	short := append([]byte(nil), answer[:end]...)
	short[2] |= tcBit
	clear(short[6:header])
	return short
}

// datagram is the whole packet that carries the payload from src to dst.
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := append(udpPorts(src, dst, len(payload)), payload...)
	checksum := ^transportSum(src.Addr(), dst.Addr(), protoUDP, b)
	if checksum == 0 {
		checksum = 0xffff // 0 says that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[6:], checksum)
	if src.Addr().Is4() {
		return append(ipv4(src.Addr(), dst.Addr(), protoUDP, len(b)), b...)
	}
	return append(ipv6(src.Addr(), dst.Addr(), protoUDP, len(b)), b...)
}

// Close implements net.PacketConn.
func (q *Questions) Close() error { return q.conn.Close() }

// LocalAddr is the server that the conn stands for.
func (q *Questions) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(q.server) }

// SetDeadline, SetReadDeadline and SetWriteDeadline implement net.PacketConn. Writing does not wait.
func (q *Questions) SetDeadline(t time.Time) error      { return q.conn.SetReadDeadline(t) }
func (q *Questions) SetReadDeadline(t time.Time) error  { return q.conn.SetReadDeadline(t) }
func (q *Questions) SetWriteDeadline(t time.Time) error { return nil }
