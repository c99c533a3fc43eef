package relay

import (
	"net"
	"syscall"
)

// Socketed is a connection of bytes that a socket of the kernel carries as they are, and that is more than the socket: a TCP
// flow that another process carries on. Whoever has the socket may read and write it in the connection's place; only what an
// end means there the connection has to be asked for.
type Socketed interface {
	net.Conn

	// SyscallConn returns the socket. The connection's deadlines and Close are its own, too.
	SyscallConn() (syscall.RawConn, error)

	// Ended returns what err, io.EOF or an error that reading or writing the socket has met, means for the connection.
	// io.EOF stays that only where the far end has ended its stream.
	Ended(err error) error
}

// stream is one side of a splicer: a socket, and what its ends mean.
type stream struct {
	raw   syscall.RawConn
	ended func(error) error
}

// streamOf returns the socket behind c, nil when there is none.
func streamOf(c net.Conn) *stream {
	var s stream
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		s.raw, err = c.SyscallConn()
		s.ended = func(err error) error { return err }
	case Socketed:
		s.raw, err = c.SyscallConn()
		s.ended = c.Ended
	default:
		return nil
	}
	if err != nil {
		return nil // it is closed, as any way of carrying it will find out
	}
	return &s
}
