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
	e.ws = websocket.NewServer(websocket.ServerConfig{QUIC: unmapped(e.cfg.UDP.LocalAddr()), Ended: e.endedWS, Log: e.log})
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
	local := netip.AddrPortFrom(s.Local.Addr().Unmap(), s.Local.Port())
	e.mu.Lock()
	conn := e.byWS[local]
	e.mu.Unlock()
	if conn != nil && unmapped(conn.RemoteAddr()) == local {
		go conn.CloseWithError(quic.ApplicationErrorCode(tunnel.Lost), "the WebSocket ended")
	}
}
