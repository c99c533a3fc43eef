package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	ws "github.com/coder/websocket"
)

// Times of both ends.
const (
	writeTimeout = 20 * time.Second // for one message: more than QUIC waits for its peer
	flushTimeout = time.Second      // for what waits at the end: QUIC's farewell
	pingEvery    = 20 * time.Second
	pingTimeout  = 10 * time.Second
)

// Stats count what became of packets at one end.
type Stats struct {
	Sent, Received uint64 // packets
	Dropped        uint64 // packets that found the queue full
	Messages       uint64 // messages written
}

// link is one end of a WebSocket: packets go in by a queue and out by messages.
type link struct {
	ws    *ws.Conn
	below *corkedConn // nil where the library's writes are large already
	out   *queue

	sent, received, dropped, messages atomic.Uint64
}

func newLink(c *ws.Conn, below *corkedConn) *link {
	c.SetReadLimit(MaxMessage)
	return &link{ws: c, below: below, out: newQueue()}
}

func (l *link) stats() Stats {
	return Stats{Sent: l.sent.Load(), Received: l.received.Load(), Dropped: l.dropped.Load(), Messages: l.messages.Load()}
}

// send queues a packet, or drops it.
func (l *link) send(packet []byte) {
	if !l.out.push(packet) {
		l.dropped.Add(1)
	}
}

// write writes what is queued until ctx ends, writing fails, or the queue has ended and is empty.
func (l *link) write(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.out.wake:
		}
		batch, more := l.out.take()
		for len(batch) > 0 {
			message, rest, packets := cut(batch)
			err := l.writeMessage(ctx, message)
			l.out.done(packets)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			l.sent.Add(uint64(packets))
			batch = rest
		}
		if !more {
			return nil
		}
	}
}

func (l *link) writeMessage(ctx context.Context, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	l.messages.Add(1)
	if l.below == nil {
		return l.ws.Write(ctx, ws.MessageBinary, message)
	}
	l.below.cork()
	err := l.ws.Write(ctx, ws.MessageBinary, message)
	if gathered := l.below.uncork(); err == nil {
		err = gathered
	}
	return err
}

// read reads one message into b, which has room for one, and returns it when it is a list of packets.
func (l *link) read(ctx context.Context, b []byte) (message []byte, err error) {
	kind, r, err := l.ws.Reader(ctx)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if kind != ws.MessageBinary {
		return nil, l.refuse(ws.StatusUnsupportedData, errors.New("a text message"))
	}
	n := 0
	for {
		k, err := r.Read(b[n:])
		n += k
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		if n == len(b) {
			if k, err := r.Read(b[:0]); k == 0 && err == io.EOF {
				break
			}
			return nil, l.refuse(ws.StatusMessageTooBig, fmt.Errorf("a message of more than %d octets", len(b)))
		}
	}
	packets, err := check(b[:n])
	if err != nil {
		return nil, l.refuse(ws.StatusInvalidFramePayloadData, err)
	}
	l.received.Add(uint64(packets))
	return b[:n], nil
}

// refuse tells the peer why it is left, and waits up to 10 s for it to go.
func (l *link) refuse(status ws.StatusCode, why error) error {
	l.ws.Close(status, why.Error())
	return fmt.Errorf("read: %w", why)
}
