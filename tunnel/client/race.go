package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
)

// When a race lets its runners go, counted from its start, or as soon as all before them have failed.
const (
	nextAddrAfter  = 200 * time.Millisecond // another address of the edge, for QUIC
	webSocketAfter = 400 * time.Millisecond
	maxAddrs       = 2 // that QUIC is tried with: one of each family, as a rule
)

// way is one way to reach the edge.
type way struct {
	transport string         // session.QUIC or session.WebSocket
	addr      netip.AddrPort // for QUIC
	small     bool           // packets of the least size that QUIC allows, for QUIC
	after     time.Duration  // when it starts
}

// ways are those that a race tries, in the order of their start. only is a transport, or empty for all.
func ways(addrs []netip.Addr, port uint16, only string, small bool) (list []way) {
	if only != session.WebSocket {
		for i, a := range spread(addrs) {
			list = append(list, way{transport: session.QUIC, addr: netip.AddrPortFrom(a, port), small: small, after: time.Duration(i) * nextAddrAfter})
		}
	}
	if only != session.QUIC {
		w := way{transport: session.WebSocket, after: webSocketAfter}
		if only == session.WebSocket {
			w.after = 0
		}
		list = append(list, w)
	}
	return list
}

// spread returns the first address, and the first of the other family or the second.
func spread(addrs []netip.Addr) []netip.Addr {
	if len(addrs) <= maxAddrs {
		return addrs
	}
	first := addrs[0]
	other := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() != first.Is4() })
	return []netip.Addr{first, addrs[max(other, 1)]}
}

// connect resolves the edge and races the ways to it.
func (s *Supervisor) connect(ctx context.Context, only string, small bool) (carrier, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	host, port, err := s.cfg.hostPort()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	if only != session.WebSocket {
		addrs, err = s.parts.resolve(ctx, host)
		if err != nil {
			err = fmt.Errorf("resolve %s: %w", host, err)
			if only == session.QUIC {
				return nil, err
			}
		}
	}
	if len(addrs) > 0 {
		s.mu.Lock()
		s.found = netip.AddrPortFrom(addrs[0], port)
		s.mu.Unlock()
	}
	// Without an address here a proxy may still have one.
	c, lost := s.race(ctx, ways(addrs, port, only, small))
	if c != nil {
		return c, nil
	}
	return nil, inOneLine(err, lost)
}

// hostPort is where the edge is.
func (cfg *SupervisorConfig) hostPort() (host string, port uint16, err error) {
	text := cfg.Edge.Port()
	if text == "" {
		text = "443"
		if cfg.Edge.Scheme == "http" {
			text = "80"
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("the port of %s: %w", cfg.Edge.Redacted(), err)
	}
	return cfg.Edge.Hostname(), uint16(n), nil
}

// finish is how one runner came in.
type finish struct {
	c   carrier
	w   way
	err error
}

// race tries the ways, each from its time on, and returns the first session that stands. The others are given up; those that
// come in later are closed. Its error holds those of all ways.
func (s *Supervisor) race(ctx context.Context, list []way) (carrier, error) {
	ctx, cancel := context.WithCancel(ctx)
	finishes := make(chan finish, len(list))
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	running, next := 0, 0
	defer func() {
		cancel()
		closeLate(finishes, running)
	}()
	var errs []error
	for next < len(list) || running > 0 {
		select {
		case <-timer.C:
			if next == len(list) || ctx.Err() != nil {
				next = len(list)
				continue
			}
			w := list[next]
			running, next = running+1, next+1
			go func() {
				c, err := s.try(ctx, w)
				finishes <- finish{c, w, err}
			}()
			if next < len(list) {
				timer.Reset(list[next].after - time.Since(start))
			}
		case f := <-finishes:
			running--
			if f.err == nil {
				return f.c, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", f.w, f.err))
			if certain(f.err) {
				return nil, f.err
			}
			if running == 0 {
				timer.Reset(0)
			}
		}
	}
	if len(errs) == 0 {
		return nil, context.Cause(ctx)
	}
	return nil, inOneLine(errs...)
}

// inOneLine is errors.Join for one line.
func inOneLine(errs ...error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// closeLate waits for the runners that are still under way, which have been told to stop, and closes who made it. Nobody
// waits for it: the runners end by themselves.
func closeLate(finishes <-chan finish, running int) {
	go func() {
		for range running {
			if f := <-finishes; f.c != nil {
				f.c.CloseWith(tunnel.Superseded, "another way was faster")
			}
		}
	}()
}

// certain reports whether an error on one way is the edge's own word, so that no other way needs to be waited for.
func certain(err error) bool { return permanent(err) != nil && !errors.Is(err, creds.ErrPin) }

// try goes one way; when nothing comes back by QUIC, with the smallest packets once more.
func (s *Supervisor) try(ctx context.Context, w way) (carrier, error) {
	c, err := s.parts.dial(ctx, w, s.sessionConfig(w.transport))
	if err == nil || w.transport != session.QUIC || w.small || !silent(err) || ctx.Err() != nil {
		return c, err
	}
	w.small = true
	return s.parts.dial(ctx, w, s.sessionConfig(w.transport))
}

// silent reports whether an attempt failed for want of any answer.
func silent(err error) bool {
	var handshake *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	return errors.As(err, &handshake) || errors.As(err, &idle)
}

// String names the way for people.
func (w way) String() string {
	if w.transport == session.QUIC {
		return w.transport + " to " + w.addr.String()
	}
	return w.transport
}
