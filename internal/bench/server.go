//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Every TCP connection begins with a head of headSize bytes: magic, what to do, and an argument. The magic is no protocol's
// first byte, so that weir's sniffers know at once that there is no name.
const (
	headSize = 16
	magic    = 0xb5

	opSink     = 1 // take bytes until the end of the stream, answer with their number
	opSource   = 2 // send bytes for argument nanoseconds
	opEcho     = 3 // send messages of messageSize back
	opReceived = 4 // answer how many datagrams of flood argument came, and in how many nanoseconds

	opFloodUp   = 5 // datagram: count it under its argument
	opFloodDown = 6 // datagram: send datagrams back for argument nanoseconds
	opPacedDown = 7 // datagram: the same, at so many a second (upper half of the argument) for so many milliseconds (lower)

	messageSize  = 64   // bytes of a request and of a response
	datagramSize = 1200 // bytes of UDP payload: a QUIC packet
	chunkSize    = 256 * 1024
	socketBuffer = 4 << 20 // for UDP; the kernel gives what it allows
)

func head(op byte, arg uint64) []byte {
	b := make([]byte, headSize)
	b[0], b[1] = magic, op
	binary.BigEndian.PutUint64(b[8:], arg)
	return b
}

// server answers on one port, TCP and UDP.
type server struct {
	tcp net.Listener
	udp *net.UDPConn

	mu     sync.Mutex
	floods map[uint64]*flood
}

// flood is what came of a stream of datagrams.
type flood struct {
	n           uint64
	first, last time.Time
}

// serverMain listens on a free port of all addresses, prints it, and serves until stdin ends.
func serverMain([]string) error {
	s, err := listen()
	if err != nil {
		return err
	}
	fmt.Println(s.port())
	io.Copy(io.Discard, os.Stdin)
	s.close()
	return nil
}

// listen starts a server.
func listen() (*server, error) {
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(ln.Addr().String())))
	if err != nil {
		ln.Close()
		return nil, err
	}
	udp.SetReadBuffer(socketBuffer)
	s := &server{tcp: ln, udp: udp, floods: map[uint64]*flood{}}
	go s.serveUDP()
	go s.serveTCP()
	return s, nil
}

func (s *server) port() int { return s.tcp.Addr().(*net.TCPAddr).Port }

// close ends the listeners; connections end with their clients.
func (s *server) close() {
	s.tcp.Close()
	s.udp.Close()
}

func (s *server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		go s.serveConn(c)
	}
}

func (s *server) serveConn(c net.Conn) {
	defer c.Close()
	b := make([]byte, headSize)
	if _, err := io.ReadFull(c, b); err != nil || b[0] != magic {
		return
	}
	arg := binary.BigEndian.Uint64(b[8:])
	switch b[1] {
	case opSink:
		n := sink(c)
		c.Write(head(opSink, uint64(n)))
	case opSource:
		source(c, time.Duration(arg))
	case opEcho:
		echo(c)
	case opReceived:
		s.mu.Lock()
		f := s.floods[arg]
		s.mu.Unlock()
		if f == nil {
			f = &flood{}
		}
		c.Write(append(head(opReceived, f.n), head(opReceived, uint64(f.last.Sub(f.first)))...))
	}
}

// sink reads until the end of the stream. (io.Copy would need no copy to user space, which no program can do with data that
// it wants to use.)
func sink(c net.Conn) (n int64) {
	b := make([]byte, chunkSize)
	for {
		m, err := c.Read(b)
		n += int64(m)
		if err != nil {
			return n
		}
	}
}

// source writes for a while.
func source(c net.Conn, d time.Duration) {
	b := make([]byte, chunkSize)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	b := make([]byte, messageSize)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func (s *server) serveUDP() {
	b := make([]byte, 64*1024)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n < headSize || b[0] != magic {
			continue
		}
		arg := binary.BigEndian.Uint64(b[8:])
		switch b[1] {
		case opFloodUp:
			s.received(arg)
		case opFloodDown:
			go s.flood(from, time.Duration(arg))
		case opPacedDown:
			go s.paced(from, arg)
		}
	}
}

func (s *server) received(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.floods[id]
	if f == nil {
		f = &flood{first: time.Now()}
		s.floods[id] = f
	}
	f.n++
	f.last = time.Now()
}

func (s *server) flood(to netip.AddrPort, d time.Duration) {
	b := make([]byte, datagramSize)
	copy(b, head(opFloodDown, 0))
	for end := time.Now().Add(d); time.Now().Before(end); {
		s.udp.WriteToUDPAddrPort(b, to)
	}
}
