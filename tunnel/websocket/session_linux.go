package websocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/batch"
)

// errIdle ends a session that has sent no packet for long.
var errIdle = errors.New("no packet for too long")

// join carries packets between a WebSocket and a socket until one of them or ctx ends, and returns why.
func join(parent context.Context, l *link, udp *net.UDPConn, idle time.Duration) error {
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	socket, err := batch.NewSocket(udp, nil)
	if err != nil {
		return err
	}
	done := make(chan struct{}, 3)
	run := func(f func() error) {
		go func() {
			fail(f())
			done <- struct{}{}
		}()
	}
	heard := time.AfterFunc(idle, func() { fail(errIdle) })
	defer heard.Stop()
	run(func() error { return l.write(ctx) })
	run(func() error { return l.fromSocket(socket) })
	run(func() error { return l.ping(ctx) })
	fail(l.toSocket(ctx, socket, func() { heard.Reset(idle) }))
	udp.SetDeadline(time.Unix(1, 0))
	for range cap(done) {
		<-done
	}
	return context.Cause(ctx)
}

// fromSocket queues what the edge's listener sends.
func (l *link) fromSocket(socket *batch.Socket) error {
	for {
		err := socket.Receive(func(packets [][]byte) error {
			for _, p := range packets {
				l.send(p)
			}
			return nil
		})
		if !errors.Is(err, syscall.ECONNREFUSED) { // the listener is being restarted
			return fmt.Errorf("socket: %w", err)
		}
	}
}

// toSocket sends what the client's messages hold to the edge's listener, and calls heard for each with a packet.
func (l *link) toSocket(ctx context.Context, socket *batch.Socket, heard func()) error {
	buf := make([]byte, MaxMessage)
	var packets [][]byte
	for {
		message, err := l.read(ctx, buf)
		if err != nil {
			return err
		}
		packets = packets[:0]
		for rest := message; len(rest) > 0; {
			var p []byte
			if p, rest = nextPacket(rest); len(p) > 0 {
				packets = append(packets, p)
			}
		}
		if len(packets) == 0 {
			continue
		}
		heard()
		if err := sendAll(socket, packets); err != nil {
			return fmt.Errorf("socket: %w", err)
		}
	}
}

// sendAll sends the packets. One that meets an error which came back for an earlier one is lost, as on any network.
func sendAll(socket *batch.Socket, packets [][]byte) error {
	for len(packets) > 0 {
		n, _, err := socket.Send(packets, true)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.ECONNREFUSED):
			return err
		}
		packets = packets[min(n+1, len(packets)):]
	}
	return nil
}

// ping finds out whether a client is still there that went without a word.
func (l *link) ping(ctx context.Context) error {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for before := uint64(0); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		now := l.received.Load()
		if now == before {
			asked, cancel := context.WithTimeout(ctx, pingTimeout)
			err := l.ws.Ping(asked)
			cancel()
			if err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		}
		before = now
	}
}
