package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// What a connection may take that is no session yet. Sessions count as connections, too, so there are more of those.
const (
	maxRequestHeader  = 8 << 10
	connectionsFactor = 2
)

// Serve takes connections from l until l or s is closed, with TLS unless cfg is nil. It returns nil then. It closes l.
func (s *Server) Serve(l net.Listener, cfg *tls.Config) error {
	bounded := &boundedListener{Listener: l, server: s, held: newQuota(connectionsFactor*s.cfg.Sessions, connectionsFactor*s.cfg.SessionsPerHost)}
	server := &http.Server{
		Handler:        s,
		ReadTimeout:    s.cfg.Header, // of the header and what may follow it; a WebSocket's deadlines are its own
		WriteTimeout:   s.cfg.Header,
		IdleTimeout:    s.cfg.Header,
		MaxHeaderBytes: maxRequestHeader,
		ErrorLog:       log.New(io.Discard, "", 0), // what strangers do wrong
		TLSConfig:      cfg.Clone(),
		TLSNextProto:   map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2: it has no upgrade
	}
	stop := context.AfterFunc(s.ctx, func() { server.Close() })
	defer stop()
	var err error
	if cfg != nil {
		server.TLSConfig.NextProtos = []string{"http/1.1"}
		server.TLSConfig.DynamicRecordSizingDisabled = true
		err = server.ServeTLS(bounded, "", "")
	} else {
		err = server.Serve(bounded)
	}
	server.Close()
	if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("websocket: %w", err)
}

// boundedListener closes connections over a bound as soon as they come.
type boundedListener struct {
	net.Listener
	server *Server

	mu   sync.Mutex
	held quota
}

// Accept returns the next connection that there is a place for.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || !l.take(remote.Addr()) {
			l.server.Refused.Add(1)
			c.Close()
			continue
		}
		limitUnsent(c)
		return &countedConn{Conn: c, gone: sync.OnceFunc(func() { l.give(remote.Addr()) })}, nil
	}
}

func (l *boundedListener) take(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held.take(a)
}

func (l *boundedListener) give(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held.give(a)
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn
	gone func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
