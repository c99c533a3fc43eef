package edge

import (
	"crypto/tls"
	"net/netip"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// openWebSocket prepares the listener for clients that UDP is closed to.
func (e *Edge) openWebSocket() {
	if e.cfg.TCP == nil {
		return
	}
	e.ws = websocket.NewServer(websocket.ServerConfig{QUIC: unmapped(e.cfg.UDP.LocalAddr()), Known: e.knownWS, Ended: e.endedWS, Log: e.log})
}

func (e *Edge) serveWebSocket(own *tls.Config) {
	outer := e.cfg.Outer
	if outer == nil {
		outer = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own.GetCertificate}
	}
	if err := e.ws.Serve(e.cfg.TCP, outer); err != nil {
		e.log.WithError(err).Error("tunnel: websocket listener ended")
	}
}

// rememberWS notes the connection of a WebSocket's loopback socket, until forget is called.
func (e *Edge) rememberWS(conn *quic.Conn) (forget func()) {
	local := unmapped(conn.RemoteAddr())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byWS[local] = conn
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.byWS[local] == conn {
			delete(e.byWS, local)
		}
	}
}

// endedWS ends the connection of a WebSocket that broke: it has no other way, and nobody has to wait for its idle time.
func (e *Edge) endedWS(s websocket.Session) {
	local := localOf(s)
	conn := e.connOf(local)
	if conn != nil && unmapped(conn.RemoteAddr()) == local {
		go conn.CloseWithError(quic.ApplicationErrorCode(tunnel.Lost), "the WebSocket ended")
	}
}

// knownWS reports whether a client's connection runs over a WebSocket. An enrolment is over before that is asked.
func (e *Edge) knownWS(s websocket.Session) bool { return e.connOf(localOf(s)) != nil }

func localOf(s websocket.Session) netip.AddrPort {
	return netip.AddrPortFrom(s.Local.Addr().Unmap(), s.Local.Port())
}

func (e *Edge) connOf(local netip.AddrPort) *quic.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.byWS[local]
}
