package stub

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"

	"github.com/miekg/dns"
)

// Host asks the resolvers of this machine: its hosts file first, then the nameservers of resolv.conf in their order. A
// nameserver on the loopback, such as that of systemd-resolved, knows which of the machine's links has which names, and is
// asked like any other. Both files are looked at again when they change, at most once a second. The zero value is ready; a
// Host may be used from many goroutines and must not be copied once in use.
type Host struct {
	Path      string // default /etc/resolv.conf
	HostsPath string // default /etc/hosts
	Port      uint16 // of the nameservers, default 53
	Client

	// Open opens the two files for reading; nil means [os.Open]. That a file has changed is seen by [os.Stat] all the same.
	Open func(path string) (*os.File, error)

	conf  file[Conf]
	hosts file[hosts]

	exchanges, fromHosts atomic.Uint64
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
func (h *Host) Servers() []netip.Addr {
	var list []netip.Addr
	for _, s := range h.config().Servers {
		list = append(list, s.Addr())
	}
	return list
}

// Options returns the resolv.conf options that a stub inside the sandbox has to follow as well, such as "ndots:2".
func (h *Host) Options() []string { return slices.Clone(h.config().options) }

// Exchange answers from the hosts file or asks the nameservers, see [Client.Exchange].
func (h *Host) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	h.exchanges.Add(1)
	if r := h.FromHosts(q); r != nil {
		return r, nil
	}
	return h.Client.Exchange(ctx, h.config(), q)
}

// FromHosts answers what the hosts file knows, nil otherwise: questions for addresses and names of addresses, and for the
// service records by which a client would look past the file.
func (h *Host) FromHosts(q *dns.Msg) *dns.Msg {
	known, _, err := h.hosts.get(cmp.Or(h.HostsPath, "/etc/hosts"), h.Open, parseHosts)
	h.debug(err)
	r := known.answer(q)
	if r != nil {
		h.fromHosts.Add(1)
	}
	return r
}

// Renew forgets what may have changed with the network: which nameservers did not answer, and what the files said.
func (h *Host) Renew() {
	h.conf.lookNow()
	h.hosts.lookNow()
	h.Forget()
}

func (h *Host) config() Conf {
	c, changed, err := h.conf.get(cmp.Or(h.Path, "/etc/resolv.conf"), h.Open, ParseConf)
	h.debug(err)
	if changed {
		h.Forget()
	}
	if h.Port != 0 {
		c.Servers = slices.Clone(c.Servers)
		for i, s := range c.Servers {
			c.Servers[i] = netip.AddrPortFrom(s.Addr(), h.Port)
		}
	}
	return c
}
