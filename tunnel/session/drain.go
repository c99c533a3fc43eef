package session

import (
	"context"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// MaxDrain bounds how long a drain takes.
const MaxDrain = 24 * time.Hour

// Drain ends the session as soon as its flows have ended: it opens no more, tells the client so, and waits. When ctx ends
// before, or the Deadline of after (30 s when it is 0), the flows that are left are reset. The session has ended when it
// returns; the error says that flows were reset.
func (e *Edge) Drain(ctx context.Context, after wire.Drain) error {
	return e.drainWith(ctx, after, e.said)
}

// Drain ends the session as soon as its flows have ended: the client takes no more, tells the edge why, and waits until ctx
// ends, 30 s without a deadline. The session has ended when it returns; the error says that flows were reset.
func (c *Client) Drain(ctx context.Context, why string) error {
	return c.drainWith(ctx, wire.Drain{Code: tunnel.Draining, Text: why}, c.said)
}

// defaultDrain is how long flows may take to end when nobody says.
const defaultDrain = 30 * time.Second

func (l *link) drainWith(ctx context.Context, d wire.Drain, said <-chan struct{}) error {
	if d.Deadline <= 0 {
		d.Deadline = defaultDrain
		if deadline, ok := ctx.Deadline(); ok {
			d.Deadline = time.Until(deadline)
		}
	}
	if d.Code == tunnel.OK {
		d.Code = tunnel.Draining
	}
	d.Deadline = min(d.Deadline, MaxDrain)
	ctx, cancel := context.WithTimeout(ctx, d.Deadline)
	defer cancel()
	l.control.send(&d)
	idle := l.stopOpening()
	// Both sides count flows, and both have to be at nothing: then what one has sent the other has read.
	for _, c := range []<-chan struct{}{idle, said} {
		select {
		case <-c:
		case <-l.done:
			return l.Err()
		case <-ctx.Done():
			l.CloseWith(d.Code, d.Text)
			return tunnel.Errorf(tunnel.TimedOut, "flows were open after %v of draining", d.Deadline)
		}
	}
	l.CloseWith(d.Code, d.Text)
	return nil
}

// stopOpening lets no flow begin. What it returns is closed when there is none.
func (l *link) stopOpening() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	l.tellIdle()
	return l.idle
}

// drained is what a DRAIN of the other side does: no flow begins, and when there is none it is told so. The other side ends
// the session. To say it again changes nothing.
func (l *link) drained() {
	idle := l.stopOpening()
	if l.toldDrain.Swap(true) {
		return
	}
	l.work.Go(func() {
		select {
		case <-idle:
			l.control.send(&wire.Goodbye{})
		case <-l.done:
		}
	})
}
