package sniff

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/internal/hostname"
)

// claim is a name or an address that the bytes put forward, with the port that stood beside it (0: none).
type claim struct {
	host string
	ip   netip.Addr
	port uint16
}

func (c claim) empty() bool { return c.host == "" && !c.ip.IsValid() }

// sameHost reports whether two claims name the same host, whatever their ports.
func (c claim) sameHost(o claim) bool { return c.host == o.host && c.ip == o.ip }

// agrees reports whether two claims are the same where a missing port stands for def.
func (c claim) agrees(o claim, def uint16) bool {
	if c.port == 0 {
		c.port = def
	}
	if o.port == 0 {
		o.port = def
	}
	return c == o
}

// claimName reads a bare name: a host name, or an IP address without brackets, zone or port. The second result says why
// it is neither.
func claimName(raw string) (claim, string) {
	name, err := hostname.Normalize(raw)
	if err == nil {
		return claim{host: name}, ""
	}
	if errors.Is(err, hostname.ErrIPLiteral) {
		if ip, perr := netip.ParseAddr(strings.TrimSuffix(raw, ".")); perr == nil && ip.Zone() == "" {
			return claim{ip: ip}, ""
		}
	}
	return claim{}, "bad host: " + err.Error()
}

// claimAuthority reads host[:port] without userinfo (RFC 9110 section 7.2, RFC 3986 section 3.2): IPv6 addresses stand
// in brackets, and an empty port is as good as none.
func claimAuthority(raw string) (claim, string) {
	host, port := raw, ""
	if strings.HasPrefix(raw, "[") {
		end := strings.IndexByte(raw, ']')
		if end < 0 || (end+1 < len(raw) && raw[end+1] != ':') {
			return claim{}, "bad host: brackets do not match"
		}
		ip, err := netip.ParseAddr(raw[1:end])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return claim{}, "bad host: no IPv6 address in brackets"
		}
		p, bad := claimPort(strings.TrimPrefix(raw[end+1:], ":"))
		return claim{ip: ip, port: p}, bad
	}
	if i := strings.IndexByte(raw, ':'); i >= 0 {
		host, port = raw[:i], raw[i+1:]
	}
	c, bad := claimName(host)
	if bad != "" {
		return claim{}, bad
	}
	c.port, bad = claimPort(port)
	return c, bad
}

func claimPort(s string) (uint16, string) {
	if s == "" {
		return 0, ""
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || len(s) > 5 {
			return 0, "bad port in authority"
		}
		n = n*10 + int(s[i]-'0')
	}
	if n < 1 || n > 65535 {
		return 0, "bad port in authority: " + strconv.Itoa(n)
	}
	return uint16(n), ""
}

// claimed puts a claim into the hint.
func (h *Hint) claimed(c claim, source string) {
	if c.empty() {
		return
	}
	h.Host, h.HostIP, h.Port, h.Source = c.host, c.ip, c.port, source
}

// malformed makes the hint one whose claim cannot be used. Nothing of what was read so far survives but the protocol.
func (h *Hint) malformed(reason string) Status {
	*h = Hint{Protocol: h.Protocol, Malformed: reason}
	return Done
}
