//go:build linux && !client

package main

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// edgeLink is a data path's way to an edge that may come and go: "weir serve" is started again, or only after the program. When
// there is none, whoever wants to open something has the launcher join one, once in a while.
type edgeLink struct {
	join func() (*os.File, error) // nil where the edge that there was is the only one

	mu    sync.Mutex
	conn  *handoff.Conn // nil before the first
	tried time.Time
}

var _ tunnel.Opener = (*edgeLink)(nil)

// rejoinEvery is how often at most the launcher is asked.
const rejoinEvery = time.Second

// current returns the connection to the edge, nil where there is none.
func (l *edgeLink) current() *handoff.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.Err() == nil {
		return l.conn
	}
	if l.join == nil || time.Since(l.tried) < rejoinEvery {
		return l.conn // whose errors say that it has gone
	}
	l.tried = time.Now()
	f, err := l.join()
	if err != nil {
		return l.conn
	}
	if conn, err := handoff.NewConn(f); err == nil {
		l.conn = conn
	}
	return l.conn
}

// errNoEdgeNow answers while there never was an edge.
func errNoEdgeNow() error { return tunnel.Errorf(tunnel.NoClient, "no edge is running") }

// OpenStream implements tunnel.Opener.
func (l *edgeLink) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	if c := l.current(); c != nil {
		return c.OpenStream(ctx, o)
	}
	return nil, errNoEdgeNow()
}

// OpenDatagrams implements tunnel.Opener.
func (l *edgeLink) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	if c := l.current(); c != nil {
		return c.OpenDatagrams(ctx, o)
	}
	return nil, errNoEdgeNow()
}

// Query implements tunnel.Opener.
func (l *edgeLink) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	if c := l.current(); c != nil {
		return c.Query(ctx, q)
	}
	return nil, tunnel.Identity{}, errNoEdgeNow()
}
