package stub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
)

// serverRest is how long a nameserver that did not answer is asked after the others.
const serverRest = 30 * time.Second

// maxResting bounds the nameservers that are remembered not to have answered.
const maxResting = 64

// Client asks nameservers. The zero value is ready; a Client may be used from many goroutines and must not be copied once
// in use.
type Client struct {
	Log logrus.FieldLogger // nil is silent

	// Dial opens "udp" and "tcp" connections to the nameservers; nil means a plain [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	turn atomic.Uint32 // for rotate

	mu      sync.Mutex
	resting map[netip.AddrPort]time.Time // nameservers that did not answer, until when; at most maxResting

	failovers, forged, overTCP atomic.Uint64
}

// Exchange asks the nameservers of c. One that fails, refuses or is lame is passed over while there is another; when all
// are, the first of their answers is returned as it is. The error says that none answered within the timeouts of c or
// before ctx ended.
func (cl *Client) Exchange(ctx context.Context, c Conf, q *dns.Msg) (*dns.Msg, error) {
	var (
		lame *dns.Msg
		errs error
	)
	for range c.Attempts {
		for _, server := range cl.order(c) {
			r, err := cl.askServer(ctx, c, server, q)
			switch {
			case ctx.Err() != nil:
				return nil, fmt.Errorf("ask nameservers: %w", errors.Join(ctx.Err(), errs))
			case err != nil:
				errs = errors.Join(errs, err)
				cl.rest(server)
			case Useful(r):
				return r, nil
			case lame == nil:
				lame = r
			}
			cl.failovers.Add(1)
		}
		if lame != nil {
			return lame, nil
		}
	}
	return nil, fmt.Errorf("ask nameservers: %w", errs)
}

// Useful reports whether another nameserver could not know better. An empty answer of a server that neither owns the name
// nor recurses is a lame delegation.
func Useful(r *dns.Msg) bool {
	switch r.Rcode {
	case dns.RcodeNameError:
		return true
	case dns.RcodeSuccess:
		return len(r.Answer) > 0 || r.Authoritative || r.RecursionAvailable
	}
	return r.Rcode != dns.RcodeServerFailure && r.Rcode != dns.RcodeRefused &&
		r.Rcode != dns.RcodeNotImplemented && r.Rcode != dns.RcodeFormatError
}

// Forget forgets which nameservers did not answer.
func (cl *Client) Forget() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	clear(cl.resting)
}

// order is the nameservers in the order to ask them: as written, or rotated; those that lately did not answer last.
func (cl *Client) order(c Conf) []netip.AddrPort {
	servers := slices.Clone(c.Servers)
	if n := len(servers); c.Rotate && n > 0 {
		first := int(cl.turn.Add(1)-1) % n
		servers = append(servers[first:], servers[:first]...)
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	now := time.Now()
	slices.SortStableFunc(servers, func(a, b netip.AddrPort) int {
		return cmp.Compare(resting(cl.resting[a], now), resting(cl.resting[b], now))
	})
	return servers
}

func resting(until, now time.Time) int {
	if now.Before(until) {
		return 1
	}
	return 0
}

func (cl *Client) rest(server netip.AddrPort) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.resting == nil || len(cl.resting) >= maxResting {
		cl.resting = map[netip.AddrPort]time.Time{}
	}
	cl.resting[server] = time.Now().Add(serverRest)
}

func (cl *Client) debug(err error) {
	if err != nil && cl.Log != nil {
		cl.Log.WithError(err).Debug("host resolver")
	}
}
