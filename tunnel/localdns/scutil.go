package localdns

import (
	"bufio"
	"cmp"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/internal/stub"
)

// Bounds of what is taken from the system's DNS configuration.
const (
	maxResolvers = 64
	maxScutil    = 1 << 20 // octets
)

// scoped is one resolver of macOS: nameservers, and the domain whose names they are asked for.
type scoped struct {
	domain    string // in normal form; empty for every name
	addrs     []netip.Addr
	port      uint16
	timeout   time.Duration
	order     int
	multicast bool // mDNS: there is no server to ask
	reachable bool
}

// parseScutil reads what `scutil --dns` prints, up to the resolvers of single interfaces and services, which only programs
// that bind to these are subject to.
func parseScutil(r io.Reader) []scoped {
	var list []scoped
	var current *scoped
	lines := bufio.NewScanner(io.LimitReader(r, maxScutil))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "DNS configuration (") {
			break
		}
		if strings.HasPrefix(line, "resolver #") {
			if len(list) == maxResolvers {
				break
			}
			list = append(list, scoped{reachable: true})
			current = &list[len(list)-1]
			continue
		}
		if key, value, ok := strings.Cut(line, " : "); ok && current != nil {
			current.set(strings.TrimSpace(key), strings.TrimSpace(value))
		}
	}
	return list
}

func (s *scoped) set(key, value string) {
	number, err := strconv.Atoi(value)
	switch {
	case key == "domain":
		if name, err := hostname.Labels(value); err == nil {
			s.domain = name
		}
	case strings.HasPrefix(key, "nameserver["):
		if a, err := netip.ParseAddr(value); err == nil && len(s.addrs) < stub.MaxServers {
			s.addrs = append(s.addrs, a)
		}
	case key == "port" && err == nil && number > 0 && number < 1<<16:
		s.port = uint16(number)
	case key == "timeout" && err == nil:
		s.timeout = time.Duration(min(max(number, 1), 30)) * time.Second
	case key == "order" && err == nil:
		s.order = number
	case key == "options":
		s.multicast = slices.Contains(strings.Fields(value), "mdns")
	case key == "reach":
		s.reachable = !strings.Contains(value, "(Not Reachable)")
	}
}

func (s scoped) conf() stub.Conf {
	c := stub.Conf{Timeout: cmp.Or(s.timeout, 2*time.Second), Attempts: 2}
	for _, a := range s.addrs {
		c.Servers = append(c.Servers, netip.AddrPortFrom(a, cmp.Or(s.port, 53)))
	}
	return c
}

// serversFor are the nameservers of the resolvers with the longest domain that name is in, the reachable ones first and then
// in the system's order. The first resolver is for every name, whatever its domain, when no other is.
func serversFor(list []scoped, name string) []stub.Conf {
	longest := -1
	var best []scoped
	for i, s := range list {
		length := len(s.domain)
		if s.domain != "" && name != s.domain && !hostname.Under(name, s.domain) {
			if i > 0 || slices.ContainsFunc(list, func(o scoped) bool { return o.domain == "" }) {
				continue
			}
			length = 0
		}
		if length > longest {
			longest, best = length, nil
		}
		if length == longest {
			best = append(best, s)
		}
	}
	slices.SortStableFunc(best, func(a, b scoped) int {
		if a.reachable != b.reachable {
			if a.reachable {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.order, b.order)
	})
	var confs []stub.Conf
	for _, s := range best {
		if !s.multicast && len(s.addrs) > 0 {
			confs = append(confs, s.conf())
		}
	}
	return confs
}
