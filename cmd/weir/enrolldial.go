package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// When each way to the edge is tried, after the one before or as soon as all before have failed.
const (
	nextAddress    = 200 * time.Millisecond
	webSocketAfter = 400 * time.Millisecond
	enrollPatience = 15 * time.Second // for all of them
)

// enrollment is a connection on which to bring a token, with the socket that it runs on.
type enrollment struct {
	*quic.Conn
	transport *quic.Transport
}

func (e *enrollment) close() {
	e.transport.Close()
	e.transport.Conn.Close()
}

// dialToEnroll reaches the edge by QUIC, at each of its addresses, or inside a WebSocket where UDP does not come through. The
// first that proves by the pin to be the edge is taken.
func dialToEnroll(ctx context.Context, edge edgeAddress, token creds.Token) (*enrollment, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollPatience)
	defer cancel()
	addrs, err := edge.resolve(ctx)
	errs := []error{err} // without an address here a proxy may still have one
	var ways []func() (*enrollment, error)
	for _, a := range addrs {
		ways = append(ways, func() (*enrollment, error) { return enrollByQUIC(ctx, a, token) })
	}
	ways = append(ways, func() (*enrollment, error) { return enrollByWebSocket(ctx, edge, token) })
	type result struct {
		conn *enrollment
		err  error
	}
	results := make(chan result, len(ways))
	started, ended := 0, 0
	defer func() {
		cancel()
		for range started - ended {
			if r := <-results; r.conn != nil {
				r.conn.close()
			}
		}
	}()
	next := time.NewTimer(0)
	for ended < len(ways) {
		select {
		case <-next.C:
			if started == len(ways) {
				continue
			}
			way := ways[started]
			started++
			go func() {
				conn, err := way()
				results <- result{conn, err}
			}()
			if wait := nextAddress; started < len(ways) {
				if started == len(ways)-1 {
					wait = webSocketAfter
				}
				next.Reset(wait)
			}
		case r := <-results:
			ended++
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if started == ended {
				next.Reset(0)
			}
		}
	}
	return nil, mostTelling(errs)
}

// resolve returns the edge's addresses with its port, one or two: of each family if there are both.
func (e edgeAddress) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	port, err := strconv.ParseUint(e.port, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", e.host, err)
	}
	list := []netip.AddrPort{netip.AddrPortFrom(addrs[0].Unmap(), uint16(port))}
	is4 := list[0].Addr().Is4()
	if other := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() != is4 }); other > 0 {
		list = append(list, netip.AddrPortFrom(addrs[other].Unmap(), uint16(port)))
	}
	return list, nil
}

func enrollByQUIC(ctx context.Context, addr netip.AddrPort, token creds.Token) (*enrollment, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	socket, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	conf := session.QUICConfig(session.ClientRole, session.QUIC, addr.Addr().Is6())
	conn, err := enrollOver(ctx, socket, net.UDPAddrFromAddrPort(addr), token, conf)
	if err != nil {
		return nil, fmt.Errorf("quic to %v: %w", addr, err)
	}
	return conn, nil
}

func enrollByWebSocket(ctx context.Context, edge edgeAddress, token creds.Token) (*enrollment, error) {
	conn, err := websocket.Dial(ctx, websocket.DialConfig{
		URL: &url.URL{Scheme: "https", Host: edge.String()}, Roots: edge.roots, Trust: creds.EnrollTLS(token, nil).VerifyConnection,
	})
	if err != nil {
		return nil, err
	}
	return enrollOver(ctx, conn, conn.RemoteAddr(), token, session.QUICConfig(session.ClientRole, session.WebSocket, false))
}

func enrollOver(ctx context.Context, socket net.PacketConn, to net.Addr, token creds.Token, conf *quic.Config) (*enrollment, error) {
	e := &enrollment{transport: &quic.Transport{Conn: socket}}
	var err error
	if e.Conn, err = e.transport.Dial(ctx, to, creds.EnrollTLS(token, nil), conf); err != nil {
		e.close()
		return nil, creds.Explain(err)
	}
	return e, nil
}

// mostTelling chooses among the errors of all ways the one that somebody can do something about: what the other end has said,
// before silence, which a way is also met with that is closed for everybody.
func mostTelling(errs []error) error {
	var clock *creds.ClockError
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	for _, tells := range []func(error) bool{
		func(err error) bool { return errors.As(err, &clock) },
		func(err error) bool { return errors.Is(err, creds.ErrPin) },
		isNoEdge,
	} {
		if i := slices.IndexFunc(errs, tells); i >= 0 {
			return errs[i]
		}
	}
	all := errs[0]
	for _, err := range errs[1:] {
		all = fmt.Errorf("%w; %w", all, err) // errors.Join would make lines of it
	}
	return all
}
