package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
)

// serverRest is how long a nameserver that did not answer is asked after the others.
const serverRest = 30 * time.Second

// Host asks the resolvers of the machine that weir runs on: its hosts file first, then the nameservers of resolv.conf in
// their order. Both files are looked at again when they change, at most once a second. The zero value is ready; a Host may
// be used from many goroutines and must not be copied once in use.
type Host struct {
	Path      string // default /etc/resolv.conf
	HostsPath string // default /etc/hosts
	Port      uint16 // of the nameservers, default 53
	Log       logrus.FieldLogger

	// Dial opens "udp" and "tcp" connections to the nameservers; nil means a plain [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Open opens the two files for reading; nil means [os.Open]. That a file has changed is seen by [os.Stat] all the same.
	Open func(path string) (*os.File, error)

	conf  file[conf]
	hosts file[hosts]
	turn  atomic.Uint32 // for rotate

	mu      sync.Mutex
	resting map[netip.Addr]time.Time // nameservers that did not answer, until when; at most maxNameservers

	exchanges, fromHosts, failovers, forged, overTCP atomic.Uint64
}

// Counters returns how often what happened, by name.
func (h *Host) Counters() map[string]uint64 {
	return map[string]uint64{
		"upstream-exchanges": h.exchanges.Load(), "upstream-hosts-file": h.fromHosts.Load(),
		"upstream-failovers": h.failovers.Load(), "upstream-forged": h.forged.Load(), "upstream-tcp": h.overTCP.Load(),
	}
}

// Search returns the search domains of the host, for the sandbox's own resolv.conf: expanding names is the business of the
// stub inside.
func (h *Host) Search() []string { return slices.Clone(h.config().search) }

// Servers returns the host's nameservers, in their order.
func (h *Host) Servers() []netip.Addr { return slices.Clone(h.config().servers) }

// Options returns the resolv.conf options that a stub inside the sandbox has to follow as well, such as "ndots:2".
func (h *Host) Options() []string { return slices.Clone(h.config().options) }

// Exchange answers from the hosts file or asks the nameservers. A nameserver that fails, refuses or is lame is passed over
// while there is another; when all are, the first of their answers is returned as it is. The error says that none
// answered within the timeouts of resolv.conf or before ctx ended.
func (h *Host) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	h.exchanges.Add(1)
	known, _, err := h.hosts.get(cmp.Or(h.HostsPath, "/etc/hosts"), h.Open, parseHosts)
	h.debug(err)
	if r := known.answer(q); r != nil {
		h.fromHosts.Add(1)
		return r, nil
	}
	c := h.config()
	var (
		lame *dns.Msg
		errs error
	)
	for range c.attempts {
		for _, server := range h.order(c) {
			r, err := h.askServer(ctx, c, server, q)
			switch {
			case ctx.Err() != nil:
				return nil, fmt.Errorf("ask nameservers: %w", errors.Join(ctx.Err(), errs))
			case err != nil:
				errs = errors.Join(errs, err)
				h.rest(server)
			case useful(r):
				return r, nil
			case lame == nil:
				lame = r
			}
			h.failovers.Add(1)
		}
		if lame != nil {
			return lame, nil
		}
	}
	return nil, fmt.Errorf("ask nameservers: %w", errs)
}

// useful reports whether another nameserver could not know better. An empty answer of a server that neither owns the name
// nor recurses is a lame delegation.
func useful(r *dns.Msg) bool {
	switch r.Rcode {
	case dns.RcodeNameError:
		return true
	case dns.RcodeSuccess:
		return len(r.Answer) > 0 || r.Authoritative || r.RecursionAvailable
	}
	return r.Rcode != dns.RcodeServerFailure && r.Rcode != dns.RcodeRefused &&
		r.Rcode != dns.RcodeNotImplemented && r.Rcode != dns.RcodeFormatError
}

func (h *Host) config() conf {
	c, changed, err := h.conf.get(cmp.Or(h.Path, "/etc/resolv.conf"), h.Open, parseConf)
	h.debug(err)
	if changed {
		h.mu.Lock()
		h.resting = map[netip.Addr]time.Time{}
		h.mu.Unlock()
	}
	return c
}

// order is the nameservers in the order to ask them: as written, or rotated; those that lately did not answer last.
func (h *Host) order(c conf) []netip.Addr {
	servers := slices.Clone(c.servers)
	if n := len(servers); c.rotate {
		first := int(h.turn.Add(1)-1) % n
		servers = append(servers[first:], servers[:first]...)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	slices.SortStableFunc(servers, func(a, b netip.Addr) int {
		return cmp.Compare(resting(h.resting[a], now), resting(h.resting[b], now))
	})
	return servers
}

func resting(until, now time.Time) int {
	if now.Before(until) {
		return 1
	}
	return 0
}

func (h *Host) rest(server netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.resting == nil || len(h.resting) > maxNameservers {
		h.resting = map[netip.Addr]time.Time{}
	}
	h.resting[server] = time.Now().Add(serverRest)
}

func (h *Host) address(server netip.Addr) string {
	return net.JoinHostPort(server.String(), strconv.Itoa(int(cmp.Or(h.Port, 53))))
}

func (h *Host) debug(err error) {
	if err != nil && h.Log != nil {
		h.Log.WithError(err).Debug("host resolver")
	}
}
