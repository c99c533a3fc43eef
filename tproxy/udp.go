//go:build linux

package tproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/tproxy/rules"
)

// maxDatagram is the largest payload of a UDP datagram.
const maxDatagram = 65535

// dnsPort is the port whose flows are questions and answers: they are idle sooner.
const dnsPort = 53

// udpListener gets the first datagrams of the flows of one family.
type udpListener struct {
	door    *Door
	handler flow.Handler // of the flows that begin here; set before anything is taken
	conn    *net.UDPConn
	raw     syscall.RawConn

	// mu is held from before a datagram leaves the socket until its flow has it, so that whoever finds the socket empty
	// knows that nobody has one in hand. It guards what follows, which is where datagrams are received.
	mu      sync.Mutex
	payload []byte
	control []byte
}

func newUDPListener(d *Door, f *os.File) (*udpListener, error) {
	pc, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, errors.New("not a udp socket")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &udpListener{door: d, conn: conn, raw: raw, payload: make([]byte, maxDatagram), control: make([]byte, 256)}, nil
}

func (l *udpListener) close() { l.conn.Close() }

// receiveAll makes a flow of each datagram that belongs to none, until the listener is closed.
func (l *udpListener) receiveAll() error {
	for {
		if err := l.raw.Read(l.take); err != nil {
			return err
		}
	}
}

// maxBehind is more datagrams than the listener's socket can hold: the kernel counts twice the octets that it was asked
// for, and 512 at least for each datagram.
const maxBehind = 2 * rules.UDPBuffer / 512

// catchUp takes what is in the listener's socket now, and leaves what comes meanwhile to receiveAll.
func (l *udpListener) catchUp() {
	l.raw.Control(func(fd uintptr) { // a closed one has nothing for anybody
		for n := 0; n < maxBehind && l.take(fd); n++ {
		}
	})
}

// take receives one datagram and gives it to its flow. It reports false, and has done nothing, when there is none.
func (l *udpListener) take(fd uintptr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, controls, _, from, err := unix.Recvmsg(int(fd), l.payload, l.control, unix.MSG_DONTWAIT)
	if err != nil {
		return err != unix.EAGAIN // any other is an error of one datagram
	}
	dst, ok := originalDst(l.control[:controls])
	if !ok {
		l.door.counters.add(dropMalformed)
		return true
	}
	l.door.table.deliver(l, udpKey{sourceOf(from), dst}, l.payload[:n])
	return true
}

// sourceOf is where a datagram came from.
func sourceOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// originalDst finds IP_ORIGDSTADDR or IPV6_ORIGDSTADDR among the control messages.
func originalDst(oob []byte) (netip.AddrPort, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(m.Data) >= unix.SizeofSockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), binary.BigEndian.Uint16(m.Data[2:])), true
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR && len(m.Data) >= unix.SizeofSockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.Data[8:24])), binary.BigEndian.Uint16(m.Data[2:])), true
		}
	}
	return netip.AddrPort{}, false
}

// idleOf is how long a flow to dst may be quiet.
func (l Limits) idleOf(dst netip.AddrPort, answered bool) time.Duration {
	switch {
	case dst.Port() == dnsPort:
		return l.UDPIdleDNS
	case answered:
		return l.UDPIdle
	}
	return l.UDPUnanswered
}

// connect opens the flow's own socket: bound to where the program sent, connected to the program's port.
func (d *Door) connect(key udpKey) (*net.UDPConn, error) {
	fd, err := d.cfg.Socket(key.dst.Addr().Is6())
	if err != nil {
		return nil, fmt.Errorf("open socket inside: %w", err)
	}
	// Its own address is none of a link's. The capability that this takes is ours: the sandbox's namespaces belong to the user
	// that we are.
	if err := rules.SetTransparent(fd, key.dst.Addr().Is6()); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make socket inside transparent: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(key.dst)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind to %s inside: %w", key.dst, err)
	}
	if err := unix.Connect(fd, sockaddr(key.src)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s inside: %w", key.src, err)
	}
	f := os.NewFile(uintptr(fd), "udp flow")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, syscall.EPROTOTYPE
	}
	return u, nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
