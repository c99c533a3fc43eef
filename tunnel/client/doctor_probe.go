package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/http/httpproxy"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// knockQUIC shakes hands with the edge and leaves before it becomes a session. Without credentials the edge's refusal is an
// answer, too.
func (d *doctor) knockQUIC(ctx context.Context, addr netip.AddrPort, size uint16) error {
	pair, err := openUDP(addr.Addr())
	if err != nil {
		return err
	}
	defer pair.close()
	cfg := session.QUICConfig(session.ClientRole, session.QUIC, addr.Addr().Is6())
	cfg.HandshakeIdleTimeout, cfg.InitialPacketSize = probeTime, size
	cfg.DisablePathMTUDiscovery = true
	conf := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{tunnel.ALPN}, InsecureSkipVerify: true} // nothing is sent
	if d.cfg.Credentials != nil {
		conf = d.cfg.Credentials.TLS()
	}
	conn, err := pair.transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), conf, cfg)
	if err != nil {
		var answer *quic.TransportError
		if d.cfg.Credentials == nil && errors.As(err, &answer) && answer.Remote {
			return nil
		}
		return creds.Explain(err)
	}
	defer conn.CloseWithError(quic.ApplicationErrorCode(tunnel.OK), "only looking")
	if d.cfg.Credentials == nil {
		return nil
	}
	return refusedLater(ctx, conn)
}

// refusedLater waits a moment for the word of an edge that does not take the certificate: it comes after the handshake, when
// the first round trip that follows it is over.
func refusedLater(ctx context.Context, conn *quic.Conn) error {
	wait := time.NewTimer(4*conn.ConnectionStats().SmoothedRTT + 50*time.Millisecond)
	defer wait.Stop()
	select {
	case <-conn.Context().Done():
		return creds.Explain(context.Cause(conn.Context()))
	case <-wait.C:
	case <-ctx.Done():
	}
	return nil
}

// proxyFunc is the configured way to choose a proxy.
func (d *doctor) proxyFunc() func(*url.URL) (*url.URL, error) {
	if d.cfg.Proxy != nil {
		return d.cfg.Proxy
	}
	return httpproxy.FromEnvironment().ProxyFunc()
}

// upgradeWebSocket opens a WebSocket to the edge and leaves.
func (d *doctor) upgradeWebSocket(ctx context.Context) (proxy string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if u, err := d.proxyFunc()(d.cfg.Edge); err == nil && u != nil {
		proxy = u.Host // and nothing else of it: there may be a password
	}
	cfg := websocket.DialConfig{URL: d.cfg.Edge, Roots: d.cfg.Roots, AllowPlain: d.cfg.AllowPlain, Proxy: d.cfg.Proxy}
	if d.cfg.Credentials != nil {
		cfg.Trust = d.cfg.Credentials.TLS().VerifyConnection
	}
	c, err := websocket.Dial(ctx, cfg)
	if err != nil {
		return proxy, err
	}
	return proxy, c.Close()
}

// dateOfEdge takes the date from an HTTP answer of the edge's (RFC 9110 section 6.6.1), which costs no certificate: nothing
// else is taken from it.
func (d *doctor) dateOfEdge(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	transport := &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) { return d.proxyFunc()(r.URL) }, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	u := *d.cfg.Edge
	u.Path, u.User = "/", nil
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
	if err != nil {
		return time.Time{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return time.Time{}, err
	}
	response.Body.Close()
	at, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("date: %w", err)
	}
	return at, nil
}
