package localdns

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/internal/stub"
)

// libraryTTL is the TTL of the library's answers, in seconds: it gives none, and has a cache of its own.
const libraryTTL = 30

// library is the resolver of a system whose own library decides where a name is asked, and tells addresses only.
type library struct {
	// lookup asks the library for the addresses of a name with its final dot; network is "ip4" or "ip6".
	lookup func(ctx context.Context, network, name string) ([]netip.Addr, error)

	// servers are those that the system would ask for a name in normal form, in their order; none is an error.
	servers func(ctx context.Context, name string) ([]stub.Conf, error)

	client *stub.Client
}

// exchange answers q, which is made anew: lower case, one question.
func (l *library) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	name, err := hostname.Normalize(q.Question[0].Name)
	switch q.Question[0].Qtype {
	case dns.TypeA:
		if err == nil {
			return l.addresses(ctx, q, "ip4", name)
		}
	case dns.TypeAAAA:
		if err == nil {
			return l.addresses(ctx, q, "ip6", name)
		}
	}
	return l.raw(ctx, q)
}

func (l *library) addresses(ctx context.Context, q *dns.Msg, network, name string) (*dns.Msg, error) {
	addrs, err := l.lookup(ctx, network, name+".")
	if err != nil && !notFound(err) {
		return nil, err
	}
	r := stub.Reply(q, dns.RcodeSuccess)
	for _, a := range addrs {
		if rr := stub.Address(q, a.Unmap().WithZone("")); rr != nil {
			rr.Header().Ttl = libraryTTL
			r.Answer = append(r.Answer, rr)
		}
	}
	if len(r.Answer) > 0 {
		return r, nil
	}
	return l.negative(ctx, q, r, name)
}

// negative finds out whether a name without such an address exists. Without a nameserver that says no, it does: that there
// is no such address is all that the library has said.
func (l *library) negative(ctx context.Context, q, nodata *dns.Msg, name string) (*dns.Msg, error) {
	other := "ip6"
	if q.Question[0].Qtype == dns.TypeAAAA {
		other = "ip4"
	}
	if addrs, err := l.lookup(ctx, other, name+"."); err == nil && len(addrs) > 0 {
		return nodata, nil
	}
	said, err := l.raw(ctx, q)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil && (said.Rcode == dns.RcodeNameError || said.Rcode == dns.RcodeSuccess && len(said.Answer) == 0) {
		return said, nil
	}
	return nodata, nil
}

// raw asks the nameservers. Where the system has several sets of them for a name, as it has with several networks, the
// first one that knows such a record answers.
func (l *library) raw(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	name, err := hostname.Labels(q.Question[0].Name)
	if err != nil {
		name = "" // the root, and names that no host has: the default servers
	}
	confs, err := l.servers(ctx, name)
	if err != nil {
		return nil, err
	}
	var first *dns.Msg
	err = errors.New("no nameserver is known")
	for _, c := range confs {
		r, failed := l.client.Exchange(ctx, c, q)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case failed != nil:
			err = failed
		case r.Rcode == dns.RcodeSuccess && len(r.Answer) > 0:
			return r, nil
		case first == nil || !stub.Useful(first) && stub.Useful(r):
			first = r
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, err
}

// notFound reports whether the library says that there is no such address, as against that it could not find out.
func notFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound && !d.IsTimeout && !d.IsTemporary
}
