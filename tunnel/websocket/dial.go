package websocket

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	ws "github.com/coder/websocket"
	"golang.org/x/net/http/httpproxy"
)

// DialConfig says how to reach an edge.
type DialConfig struct {
	// URL is the edge's, "https://HOST[:PORT]"; its path is not used. "http" is refused but for a loopback address.
	URL *url.URL

	// AllowPlain lets "http" through to any host. The tunnel inside is encrypted either way.
	AllowPlain bool

	// Roots are who may sign the edge's certificate; nil for the system's.
	Roots *x509.CertPool

	// Trust accepts certificates that Roots do not, because they are of the edge's own CA: a nil error is a yes. It may be nil.
	// The chain has not been verified.
	Trust func(tls.ConnectionState) error

	// Proxy returns the proxy for a URL, nil for none. Where it is nil, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment
	// say, in capitals or not. A proxy may be http, https, socks5 or socks5h and have a user and a password in its URL.
	Proxy func(*url.URL) (*url.URL, error)

	// DialContext makes TCP connections; nil for package net's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// The stages of dialling, in their order.
const (
	StageProxy = "proxy" // reaching the proxy, and being let through
	StageTCP   = "tcp"   // reaching the edge, name resolution included
	StageTLS   = "tls"   // the edge's outer certificate
	StageHTTP  = "http"  // becoming a WebSocket
)

// DialError says how far dialling came.
type DialError struct {
	Stage string // one of the stages: what failed
	Proxy string // HOST:PORT of the proxy, empty without one
	Err   error
}

func (e *DialError) Error() string {
	if e.Proxy != "" {
		return fmt.Sprintf("websocket through proxy %s: %s: %v", e.Proxy, e.Stage, e.Err)
	}
	return fmt.Sprintf("websocket: %s: %v", e.Stage, e.Err)
}

// Unwrap returns what went wrong.
func (e *DialError) Unwrap() error { return e.Err }

// maxResponseHeader bounds the answers of an edge and of a proxy, in octets.
const maxResponseHeader = 16 << 10

// Dial opens a WebSocket to the edge. ctx bounds the dialling and not the connection, which the caller closes. The error is a
// *DialError, or about the URL.
func Dial(ctx context.Context, cfg DialConfig) (*Conn, error) {
	target, err := cfg.target()
	if err != nil {
		return nil, err
	}
	raw, proxy, err := cfg.connect(ctx, target)
	if err != nil {
		return nil, err
	}
	limitUnsent(raw)
	conn := raw
	if target.Scheme == "https" {
		secured := tls.Client(raw, cfg.tlsConfig(target.Hostname()))
		if err := secured.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, &DialError{Stage: StageTLS, Proxy: proxy, Err: err}
		}
		conn = secured
	}
	c, err := upgrade(ctx, conn, target)
	if err != nil {
		raw.Close()
		return nil, &DialError{Stage: StageHTTP, Proxy: proxy, Err: err}
	}
	return c, nil
}

// target is the URL of the tunnel at the edge.
func (cfg DialConfig) target() (*url.URL, error) {
	u := *cfg.URL
	switch u.Scheme {
	case "https", "wss":
		u.Scheme = "https"
	case "http", "ws":
		if !cfg.AllowPlain && !isLoopback(u.Hostname()) {
			return nil, fmt.Errorf("websocket: %s://%s: the edge's URL must be https", u.Scheme, u.Host)
		}
		u.Scheme = "http"
	default:
		return nil, fmt.Errorf("websocket: %q is no https URL", u.Redacted())
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("websocket: %q has no host", u.Redacted())
	}
	u.User, u.RawQuery, u.Fragment, u.RawPath, u.Path = nil, "", "", "", Path
	return &u, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// connect opens a connection to the target, through a proxy where there is one: HOST:PORT of that.
func (cfg DialConfig) connect(ctx context.Context, target *url.URL) (conn net.Conn, through string, err error) {
	choose, dial := cfg.Proxy, cfg.DialContext
	if choose == nil {
		choose = httpproxy.FromEnvironment().ProxyFunc()
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	proxy, err := choose(target)
	if err != nil {
		return nil, "", &DialError{Stage: StageProxy, Err: errors.New("the proxy's URL cannot be read")} // it may hold a password
	}
	if proxy == nil {
		conn, err := dial(ctx, "tcp", hostPort(target))
		if err != nil {
			return nil, "", &DialError{Stage: StageTCP, Err: err}
		}
		return conn, "", nil
	}
	through = hostPort(proxy)
	conn, err = throughProxy(ctx, dial, proxy, hostPort(target), cfg.Roots)
	if err != nil {
		return nil, "", &DialError{Stage: StageProxy, Proxy: through, Err: err}
	}
	return conn, through, nil
}

// hostPort is where the server of u listens.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tlsConfig verifies the edge's certificate by itself: against the roots, and when those do not know it, by Trust.
func (cfg DialConfig) tlsConfig(host string) *tls.Config {
	return &tls.Config{
		ServerName:                  host,
		MinVersion:                  tls.VersionTLS12, // a proxy on the way may have no better
		NextProtos:                  []string{"http/1.1"},
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			opts := x509.VerifyOptions{DNSName: host, Roots: cfg.Roots, Intermediates: x509.NewCertPool()}
			for _, c := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			if err != nil && cfg.Trust != nil && cfg.Trust(cs) == nil {
				return nil
			}
			return err
		},
	}
}

// upgrade makes a WebSocket of a connection that has been secured.
func upgrade(ctx context.Context, conn net.Conn, target *url.URL) (*Conn, error) {
	corked := &corkedConn{Conn: conn}
	dial := func(context.Context, string, string) (net.Conn, error) { return corked, nil }
	transport := &http.Transport{DialContext: dial, DialTLSContext: dial, MaxResponseHeaderBytes: maxResponseHeader}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c, response, err := ws.Dial(ctx, target.String(), &ws.DialOptions{HTTPClient: client})
	if err != nil {
		transport.CloseIdleConnections()
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("the server answered %d %s to a request for a websocket", response.StatusCode, http.StatusText(response.StatusCode))
		}
		return nil, err
	}
	remote := Addr(target.Scheme + "://" + target.Host)
	return newConn(c, corked, remote), nil
}
