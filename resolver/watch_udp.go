package resolver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/batch"
)

// datagramBuffers hold one message each, of any size. A flow has one only while there is a datagram to look at.
var datagramBuffers = sync.Pool{New: func() any { return new([dns.MaxMsgSize]byte) }}

// upUDP forwards the datagrams that are questions, or answers them here.
func (w *watch) upUDP() error {
	return w.datagrams(w.client, "read from dns client", func(b []byte) error {
		answer, err := w.judge(b)
		switch {
		case err != nil:
			return err
		case answer != nil:
			w.mu.Lock()
			_, err = w.client.Write(answer)
			w.mu.Unlock()
		default:
			err = w.send(b)
		}
		w.lost(err)
		return nil
	})
}

// downUDP passes the answers on.
func (w *watch) downUDP() error {
	return w.datagrams(w.upstream, "read from dns server", func(b []byte) error {
		w.answered.Store(true)
		w.mu.Lock()
		w.hear(b) // before the client has it: the first packet of the flow must find it
		err := w.deliver(b)
		w.mu.Unlock()
		w.lost(err)
		return nil
	})
}

// lost counts a datagram that was not sent: it may be lost, and a side that is gone is seen by its reader.
func (w *watch) lost(err error) {
	if err != nil {
		w.s.counters.watchDropped.Add(1)
		w.s.debug("watch dns datagrams", err)
	}
}

// datagrams hands what c receives to f until either fails.
func (w *watch) datagrams(c net.Conn, what string, f func(b []byte) error) error {
	for {
		var buf *[dns.MaxMsgSize]byte
		n, err := w.read(c, 0, func() (int, error) {
			if err := await(c); err != nil {
				return 0, err
			}
			buf = datagramBuffers.Get().(*[dns.MaxMsgSize]byte)
			n, err := c.Read(buf[:])
			if err != nil {
				datagramBuffers.Put(buf)
			}
			return n, err
		})
		if err != nil {
			return ended(what, err)
		}
		err = f(buf[:n])
		datagramBuffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

// await waits until c has something to read, where it can without a buffer.
func await(c net.Conn) error {
	switch c := c.(type) {
	case interface{ Await() error }:
		return c.Await()
	case syscall.Conn:
		return batch.Await(c)
	}
	return nil
}

// ended is why a datagram flow is over. The end of one side is the end of both, and no failure.
func ended(what string, err error) error {
	if errors.Is(err, io.EOF) {
		return errFinished
	}
	return fmt.Errorf("%s: %w", what, err)
}
