package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

const (
	// maxPings is how many answers are waited for at one time.
	maxPings = 64

	// messageBurst and messageInterval bound the control messages of the other side: so many at once, and one more in each
	// interval.
	messageBurst    = 256
	messageInterval = 100 * time.Millisecond
)

// control is the control stream.
type control struct {
	link   *link
	stream *quic.Stream

	writing sync.Mutex

	mu    sync.Mutex
	pings map[uint64]chan struct{}
}

func newControl(l *link, stream *quic.Stream) *control {
	stream.SetPriority(urgencyControl, true)
	return &control{link: l, stream: stream, pings: make(map[uint64]chan struct{})}
}

// send writes a message. A control stream that takes nothing ends the session.
func (c *control) send(m wire.Message) error {
	if err := writeControl(c, wire.AppendMessage(nil, m)); err != nil {
		c.link.fail(tunnel.Lost, "the control stream is stuck")
		return flowError(err)
	}
	return nil
}

func writeControl(c *control, b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.stream.SetWriteDeadline(time.Now().Add(headerTimeout))
	c.link.fair.use(time.Now())
	_, err := c.stream.Write(b)
	return err
}

// read hands messages to handle until the stream or the session ends. Pings are answered here.
func (c *control) read(handle func(wire.Message) error) {
	err := c.readAll(handle)
	if c.link.conn.Context().Err() != nil {
		return
	}
	if err == io.EOF {
		err = tunnel.Errorf(tunnel.Malformed, "the control stream has ended")
	}
	code, text := ending(flowError(err))
	c.link.fail(code, text)
}

func (c *control) readAll(handle func(wire.Message) error) error {
	allowed := newBucket(messageBurst, messageInterval, time.Now())
	for {
		m, err := wire.ReadMessage(c.stream)
		if err != nil {
			return err
		}
		if !allowed.take(time.Now()) {
			return tunnel.Errorf(tunnel.Limit, "too many control messages")
		}
		switch m := m.(type) {
		case nil:
		case *wire.Ping:
			err = c.send(&wire.Pong{Number: m.Number})
		case *wire.Pong:
			c.ponged(m.Number)
		default:
			err = handle(m)
		}
		if err != nil {
			return err
		}
	}
}

// ping sends one and waits for its answer.
func (c *control) ping(ctx context.Context) (time.Duration, error) {
	number, came := random(), make(chan struct{})
	c.mu.Lock()
	if len(c.pings) == maxPings {
		c.mu.Unlock()
		return 0, tunnel.Errorf(tunnel.Limit, "%d pings are on their way", maxPings)
	}
	c.pings[number] = came
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pings, number)
		c.mu.Unlock()
	}()
	start := time.Now()
	if err := c.send(&wire.Ping{Number: number}); err != nil {
		return 0, err
	}
	select {
	case <-came:
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, openError(ctx, os.ErrDeadlineExceeded)
	case <-c.link.done:
		return 0, flowError(c.link.Err())
	}
}

// ponged tells whoever waits for the number. Numbers that nobody waits for are of no interest.
func (c *control) ponged(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if came := c.pings[number]; came != nil {
		delete(c.pings, number)
		close(came)
	}
}

// random is an integer of the wire that nobody can guess.
func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:]) & wire.MaxVarint
}

// grease is a control message without a meaning.
func grease() []byte { return wire.AppendGrease(nil, uint32(random()&0xff)) }

// bucket is a token bucket.
type bucket struct {
	tokens, most int
	every        time.Duration
	last         time.Time
}

func newBucket(most int, every time.Duration, now time.Time) *bucket {
	return &bucket{tokens: most, most: most, every: every, last: now}
}

// take reports whether there was a token.
func (b *bucket) take(now time.Time) bool {
	if n := now.Sub(b.last) / b.every; n > 0 {
		b.tokens = min(b.most, b.tokens+int(min(n, time.Duration(b.most))))
		b.last = b.last.Add(n * b.every)
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}

// handshake reads the first message, which is of type M, skipping what is not known.
func handshake[M wire.Message](stream *quic.Stream) (M, error) {
	var none M
	for range messageBurst {
		m, err := wire.ReadMessage(stream)
		if err != nil {
			return none, err
		}
		if m == nil {
			continue
		}
		first, ok := m.(M)
		if !ok {
			return none, tunnel.Errorf(tunnel.Malformed, "the first message is %T", m)
		}
		return first, nil
	}
	return none, tunnel.Errorf(tunnel.Limit, "too many control messages")
}
