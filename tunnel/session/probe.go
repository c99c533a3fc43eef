package session

import (
	"context"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

const (
	// maxProbe is how much of a probe comes back, in octets.
	maxProbe = 1 << 20

	// probeTimeout bounds a probe.
	probeTimeout = 10 * time.Second
)

// serveProbe answers a stream of the client's if it is a probe.
func (e *Edge) serveProbe(q *quic.Stream) {
	q.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := wire.ReadHeader(q)
	if err != nil || h.Kind != wire.Probe {
		e.counters.refused.Add(1)
		refuse(q, tunnel.Malformed)
		e.violated("a client opened a stream")
		return
	}
	echo(q)
}

// echo sends back what comes.
func echo(q *quic.Stream) {
	q.SetDeadline(time.Now().Add(probeTimeout))
	_, err := io.CopyBuffer(struct{ io.Writer }{q}, io.LimitReader(q, maxProbe), make([]byte, smallBuffer))
	if err == nil {
		if n, _ := q.Read(make([]byte, 1)); n == 0 {
			q.Close()
			return
		}
	}
	refuse(q, tunnel.Limit)
}

// Probe sends octets to the other side and waits for all of them to come back: the session works, and so fast. At most
// 1 MiB are possible.
func (l *link) Probe(ctx context.Context, octets int) (time.Duration, error) {
	if octets < 0 || octets > maxProbe {
		return 0, tunnel.Errorf(tunnel.Limit, "a probe of %d octets", octets)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	start := time.Now()
	q, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		return 0, openError(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { refuse(q, tunnel.TimedOut) })
	defer stop()
	written := make(chan error, 1)
	go func() {
		_, err := q.Write(append(wire.AppendHeader(nil, wire.Header{Kind: wire.Probe}), make([]byte, octets)...))
		if err == nil {
			err = q.Close()
		}
		written <- err
	}()
	n, err := io.Copy(io.Discard, q)
	if err != nil {
		refuse(q, tunnel.Internal)
	}
	if werr := <-written; err == nil {
		err = werr
	}
	if err == nil && n != int64(octets) {
		err = tunnel.Errorf(tunnel.Malformed, "%d octets came back of %d", n, octets)
	}
	if err != nil {
		return 0, openError(ctx, err)
	}
	return time.Since(start), nil
}
