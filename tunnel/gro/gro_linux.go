//go:build linux

package gro

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// width is how many messages one system call may bring. quic-go's messages have up to 20 KiB, a network card's up to 64.
	width = 4

	// messageMost is the longest message: 64 packets at most, and no more than UDP carries.
	messageMost = 1 << 16

	// oobMost has room for what quic-go asks for (ECN and packet info of both families) and the size of the cuts.
	oobMost = 128
)

// Conn is a UDP socket. Its ReadBatch is for one goroutine; everything else is the socket's.
type Conn struct {
	*net.UDPConn
	in *ipv4.PacketConn

	came []ipv4.Message // of the last system call
	next int            // the first of them that is not handed over
	cut  int            // how much of that is
}

// Wrap makes the socket one for quic-go, if the kernel can join packets (Linux 5.0); otherwise it returns c itself. The socket
// stays the caller's. QUIC_GO_DISABLE_GRO=1 leaves it alone, too.
func Wrap(c *net.UDPConn) net.PacketConn {
	if off, err := strconv.ParseBool(os.Getenv("QUIC_GO_DISABLE_GRO")); err == nil && off {
		return c
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	refused := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
	if refused != nil || err != nil {
		return c
	}
	g := &Conn{UDPConn: c, in: ipv4.NewPacketConn(c)}
	for range width {
		g.came = append(g.came, ipv4.Message{Buffers: [][]byte{make([]byte, messageMost)}, OOB: make([]byte, oobMost)})
	}
	g.next = len(g.came)
	return g
}

// ReadBatch fills at least one of ms with a packet, and returns how many. It waits when none is there. Each message must have one
// buffer; a packet that is longer loses its end, as in recvmsg(2).
func (c *Conn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if c.next == len(c.came) {
		if err := c.receive(flags); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(ms) && c.next < len(c.came) {
		c.hand(&ms[n])
		n++
	}
	return n, nil
}

// receive waits for messages.
func (c *Conn) receive(flags int) error {
	all := c.came[:width]
	n, err := c.in.ReadBatch(all, flags)
	if err != nil {
		c.came, c.next = all[:0], 0
		return err
	}
	c.came, c.next, c.cut = all[:n], 0, 0
	return nil
}

// hand copies the next packet, with what is known of all packets of its message.
func (c *Conn) hand(to *ipv4.Message) {
	m := &c.came[c.next]
	rest := m.Buffers[0][c.cut:m.N]
	packet := rest[:min(len(rest), segment(m.OOB[:m.NN], len(rest)))]
	to.N = copy(to.Buffers[0], packet)
	to.NN = copy(to.OOB, m.OOB[:m.NN])
	to.Addr, to.Flags = m.Addr, m.Flags
	if c.cut += len(packet); c.cut == m.N {
		c.next, c.cut = c.next+1, 0
	}
}

// segment is the length of the packets that a message was made of; but for the last one, which may be shorter.
func segment(oob []byte, whole int) int {
	for len(oob) >= unix.SizeofCmsghdr {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(body) >= 4 {
			if size := int(binary.NativeEndian.Uint32(body)); size > 0 {
				return size
			}
		}
		oob = rest
	}
	return whole
}
