package stub

import (
	"bufio"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/hostname"
)

// Bounds of what is taken from a resolv.conf.
const (
	MaxServers = 8
	maxSearch  = 32
)

// dnsPort is the port of nameservers that name none.
const dnsPort = 53

// Conf is what resolv.conf(5) says, as far as it concerns a stub.
type Conf struct {
	Servers  []netip.AddrPort // in the order to ask them, at most MaxServers
	Timeout  time.Duration    // for one server, 1 to 30 s
	Attempts int              // rounds through all servers, 1 to 5
	Rotate   bool             // begin with another server each time
	TCP      bool             // use-vc

	search  []string
	options []string // those that a stub of somebody else's follows as well
}

// ParseConf reads resolv.conf. What it does not know it passes over, as every stub does; without a nameserver there is one
// on the loopback. The search list is kept and never applied: that is the business of whoever asks.
func ParseConf(r io.Reader) Conf {
	c := Conf{Timeout: 2 * time.Second, Attempts: 2}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(c.Servers) < MaxServers {
				c.Servers = append(c.Servers, netip.AddrPortFrom(a, dnsPort))
			}
		case "domain":
			c.search = searchList(f[1:2])
		case "search":
			c.search = searchList(f[1:])
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	return c
}

func searchList(words []string) []string {
	var list []string
	for _, w := range words {
		if n, err := hostname.Labels(w); err == nil && len(list) < maxSearch {
			list = append(list, n)
		}
	}
	return list
}

func (c *Conf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, _ := strconv.Atoi(value)
	switch name {
	case "timeout":
		c.Timeout = time.Duration(min(max(n, 1), 30)) * time.Second
	case "attempts":
		c.Attempts = min(max(n, 1), 5)
	case "rotate":
		c.Rotate = true
	case "use-vc":
		c.TCP = true
	case "ndots":
		c.options = append(c.options, "ndots:"+strconv.Itoa(min(max(n, 0), 15)))
	case "edns0", "trust-ad", "no-aaaa":
		c.options = append(c.options, name)
	}
}
