package session

import (
	"net"

	"github.com/weir-dev/weir/internal/batch"
	"github.com/weir-dev/weir/tunnel"
)

// socket is a UDP socket of the client's, which takes and gives datagrams by the batch where it can.
type socket struct {
	one
	batch    *batch.Socket // nil where the connection is no socket of the kernel
	upstream tunnel.Upstream
}

func newSocket(conn net.Conn) *socket {
	s := &socket{one: one{conn}}
	// A connection that counts what passes is to be told of what went past it; others have no need.
	if upstream, ok := conn.(tunnel.Upstream); ok {
		s.upstream = upstream
	} else if _, plain := conn.(*net.UDPConn); !plain {
		return s
	}
	s.batch, _ = batch.NewSocket(conn, nil)
	return s
}

func (s *socket) send(datagrams [][]byte) error {
	if s.batch == nil {
		return s.one.send(datagrams)
	}
	_, sent, err := s.batch.Send(datagrams, true)
	s.carried(int(sent), 0)
	if passing(err) {
		return nil
	}
	return err
}

func (s *socket) receive(f func(datagrams [][]byte) error) error {
	if s.batch == nil {
		return s.one.receive(f)
	}
	return s.batch.Receive(func(datagrams [][]byte) error {
		received := 0
		for _, d := range datagrams {
			received += len(d)
		}
		s.carried(0, received)
		return f(datagrams)
	})
}

func (s *socket) carried(sent, received int) {
	if s.upstream != nil {
		s.upstream.Carried(sent, received)
	}
}
