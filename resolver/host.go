package resolver

import (
	"context"
	"errors"

	"github.com/miekg/dns"
)

// Host asks the resolvers of the host that weir runs on.
type Host struct {
	Path      string // default /etc/resolv.conf
	HostsPath string // default /etc/hosts
}

// Exchange answers from the hosts file or asks the nameservers.
func (h *Host) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	return nil, errors.New("ask host resolvers: not built")
}

// Search returns the search domains of the host, for the sandbox's own resolv.conf.
func (h *Host) Search() []string { return nil }

// Options returns the resolv.conf options that concern a stub inside the sandbox.
func (h *Host) Options() []string { return nil }
