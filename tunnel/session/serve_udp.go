package session

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// udpLinger is how long a flow that the edge has ended waits for datagrams that its end has overtaken.
const udpLinger = 50 * time.Millisecond

// relay is the client's end of a UDP flow.
type relay struct {
	*udpFlow
	client *Client
	socket *socket
	writer sync.WaitGroup // whoever writes to the socket

	once sync.Once
}

// serveUDP gives a flow a socket and carries its datagrams until one of the sides has enough.
func (c *Client) serveUDP(q *quic.Stream, h wire.Header) {
	conn, err := c.dial(q.Context(), h)
	if err != nil {
		c.answerError(q, err)
		return
	}
	r := &relay{client: c, socket: newSocket(conn)}
	r.udpFlow = newUDPFlow(c.exchange, q, h.Open.Sandbox, func() { r.writer.Go(r.write) })
	defer c.exchange.remove(r.udpFlow)
	if err = c.exchange.add(r.udpFlow); err == nil {
		err = c.answer(q, wire.Status{Resolved: addrPort(conn.RemoteAddr()), Bound: addrPort(conn.LocalAddr())})
	}
	if err != nil {
		refuse(q, tunnel.TimedOut)
		abort(conn, streamCode(err))
		return
	}
	var reader sync.WaitGroup
	reader.Go(r.read)
	r.end(r.receiveLong())
	r.writer.Wait()
	reader.Wait()
}

// write gives the socket what is in the inbox. It runs while there is something.
func (r *relay) write() {
	batch := make([][]byte, 0, batchDatagrams)
	for {
		got, err := r.in.take(batch[:0], batchOctets)
		if len(got) == 0 || err != nil {
			return
		}
		if err := r.socket.send(got); err != nil {
			r.fail(err)
			return
		}
		clear(got)
	}
}

// read gives the edge what comes to the socket.
func (r *relay) read() {
	err := r.socket.receive(func(batch [][]byte) error {
		r.send(batch)
		return nil
	})
	r.fail(err)
}

// fail ends the flow from this side.
func (r *relay) fail(err error) {
	r.once.Do(func() {
		if err == io.EOF {
			r.q.CancelRead(quic.StreamErrorCode(tunnel.OK))
			r.endStream()
			r.socket.conn.Close()
			return
		}
		code := tunnel.CodeOf(err)
		r.reset(code)
		abort(r.socket.conn, code)
	})
}

// end ends the flow because its stream has: err is how.
func (r *relay) end(err error) {
	r.once.Do(func() {
		if err == io.EOF || errors.Is(err, context.Canceled) {
			linger(r.client.conn.Context(), udpLinger)
			r.in.end(io.EOF)
			r.writer.Wait()
			r.endStream()
			r.socket.conn.Close()
			return
		}
		code := streamCode(err)
		r.in.end(io.EOF)
		r.reset(code)
		abort(r.socket.conn, code)
	})
}

// linger waits.
func linger(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// passing says whether an error of a UDP socket is about one datagram: the flow goes on.
func passing(err error) bool {
	return errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EPERM)
}

// one is a socket of which every Read and Write is a datagram.
type one struct{ conn net.Conn }

func (s one) send(batch [][]byte) error {
	for _, d := range batch {
		if _, err := s.conn.Write(d); err != nil && !passing(err) {
			return err
		}
	}
	return nil
}

func (s one) receive(f func(batch [][]byte) error) error {
	b := make([]byte, wire.MaxPayload)
	for {
		n, err := s.conn.Read(b)
		if err != nil && passing(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := f([][]byte{b[:n]}); err != nil {
			return err
		}
	}
}
