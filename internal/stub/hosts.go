package stub

import (
	"bufio"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/hostname"
)

// maxPerName bounds the addresses of one name and the names of one address in a hosts file.
const maxPerName = 32

// hosts is what hosts(5) says.
type hosts struct {
	addrs map[string][]netip.Addr // by name in normal form
	names map[string][]string     // by the name of the reverse question
}

func parseHosts(r io.Reader) hosts {
	h := hosts{addrs: map[string][]netip.Addr{}, names: map[string][]string{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		addr = addr.Unmap().WithZone("")
		for _, word := range f[1:] {
			if name, err := hostname.Normalize(word); err == nil {
				h.add(addr, name)
			}
		}
	}
	return h
}

func (h hosts) add(addr netip.Addr, name string) {
	if l := h.addrs[name]; len(l) < maxPerName && !slices.Contains(l, addr) {
		h.addrs[name] = append(l, addr)
	}
	arpa := ReverseName(addr)
	if l := h.names[arpa]; len(l) < maxPerName && !slices.Contains(l, name) {
		h.names[arpa] = append(l, name)
	}
}

// answer answers what the file knows, nil otherwise. A name of one address family has no address in the other, and no
// service record that could lead past the file.
func (h hosts) answer(q *dns.Msg) *dns.Msg {
	if len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		return nil
	}
	name, err := hostname.Labels(q.Question[0].Name)
	if err != nil {
		return nil
	}
	r := Reply(q, dns.RcodeSuccess)
	switch q.Question[0].Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeHTTPS, dns.TypeSVCB:
		addrs, ok := h.addrs[name]
		if !ok {
			return nil
		}
		for _, a := range addrs {
			if rr := Address(q, a); rr != nil {
				r.Answer = append(r.Answer, rr)
			}
		}
	case dns.TypePTR:
		names, ok := h.names[name]
		if !ok {
			return nil
		}
		for _, n := range names {
			r.Answer = append(r.Answer, &dns.PTR{Hdr: Header(q, dns.TypePTR), Ptr: n + "."})
		}
	default:
		return nil
	}
	return r
}
