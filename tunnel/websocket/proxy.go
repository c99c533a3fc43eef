package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// ErrProxyAuth is wrapped by errors of proxies that want a user and a password, or others than they were given.
var ErrProxyAuth = errors.New("the proxy wants other credentials")

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// DialContext makes a dialFunc what package proxy wants.
func (d dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d(ctx, network, addr)
}

func (d dialFunc) Dial(network, addr string) (net.Conn, error) {
	return d(context.Background(), network, addr)
}

// throughProxy opens a connection to target, HOST:PORT, through the proxy at u. No error of it holds u's user or password.
func throughProxy(ctx context.Context, dial dialFunc, u *url.URL, target string, roots *x509.CertPool) (net.Conn, error) {
	switch u.Scheme {
	case "http", "https":
	case "socks5", "socks5h":
		return throughSOCKS(ctx, dial, u, target)
	default:
		return nil, fmt.Errorf("%q is no kind of proxy that is known here", u.Scheme)
	}
	conn, err := dial(ctx, "tcp", hostPort(u))
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		secured := tls.Client(conn, &tls.Config{ServerName: u.Hostname(), RootCAs: roots, MinVersion: tls.VersionTLS12})
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("its certificate: %w", err)
		}
		conn = secured
	}
	through, err := connectMethod(ctx, conn, u.User, target)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return through, nil
}

// connectMethod asks a proxy for a connection to target (RFC 9110 section 9.3.6).
func connectMethod(ctx context.Context, conn net.Conn, user *url.Userinfo, target string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{"User-Agent": {"weir"}}}
	if user != nil {
		password, _ := user.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+credentials)
	}
	if err := request.Write(conn); err != nil {
		return nil, causeOf(ctx, err)
	}
	r := bufio.NewReaderSize(io.LimitReader(conn, maxResponseHeader), maxResponseHeader)
	response, err := http.ReadResponse(r, request)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired:
		return nil, ErrProxyAuth
	case response.StatusCode/100 != 2:
		return nil, fmt.Errorf("it answered %d %s to CONNECT %s", response.StatusCode, http.StatusText(response.StatusCode), target)
	case r.Buffered() > 0:
		return nil, errors.New("it speaks before it is asked")
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return conn, nil
}

// causeOf is why ctx has ended, when that is what err comes of.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// throughSOCKS asks a SOCKS 5 proxy (RFC 1928), which resolves the name.
func throughSOCKS(ctx context.Context, dial dialFunc, u *url.URL, target string) (net.Conn, error) {
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", hostPort(u), auth, dial)
	if err != nil {
		return nil, err
	}
	return d.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
}
