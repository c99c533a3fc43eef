package capture

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/sniff"
)

// connect is the flow's line: what it claims, without a verdict.
func (f *flow) connect() *event.Connect {
	c := &event.Connect{
		NameSource: "none",
		Src:        f.endpoint(f.client),
		Dst:        f.endpoint(1 - f.client),
		Protocol:   protocolName(f.key.proto),
	}
	if f.key.proto != protoTCP && f.key.proto != protoUDP {
		c.Src, c.Dst = netip.AddrPortFrom(c.Src.Addr(), 0), netip.AddrPortFrom(c.Dst.Addr(), 0)
	}
	addClaim(c, &f.sniffed)
	for i := range f.late {
		addClaim(c, &f.late[i])
	}
	return c
}

// addClaim adds one hint: the first name is the flow's, later ones are added to Names. A claim that is no host name is
// shown as it was read and marked as malformed: this is a record of what the capture holds, and nobody acts on it.
func addClaim(c *event.Connect, h *sniff.Hint) {
	name, source := claimed(h), h.Source
	if h.Malformed != "" {
		c.Reason = "malformed"
		name, source = refused(h)
	}
	if len(h.ALPN) > 0 {
		c.ALPN = h.ALPN
	}
	c.ECH = c.ECH || h.ECH
	if name == "" {
		return
	}
	if c.Hostname == "" {
		c.Hostname, c.NameSource = name, source
	}
	if !slices.Contains(c.Names, name) {
		c.Names = append(c.Names, name)
	}
	switch {
	case source == sniff.SourceHTTPHost && c.HTTPHost == "":
		c.HTTPHost = authority(name, h)
	case source != sniff.SourceHTTPHost && c.SNI == "":
		c.SNI = name
	}
}

// claimed is the name or address that a hint claims, "" if none.
func claimed(h *sniff.Hint) string {
	if h.HostIP.IsValid() {
		return h.HostIP.String()
	}
	return h.Host
}

// refused is the text of a claim that is malformed because it is no host name, "" where the claim is malformed in another
// way. The sniffer quotes it in its reason.
func refused(h *sniff.Hint) (name, source string) {
	quoted, ok := strings.CutPrefix(h.Malformed, "bad host: host name ")
	if !ok {
		return "", ""
	}
	quoted, err := strconv.QuotedPrefix(quoted)
	if err != nil {
		return "", ""
	}
	if name, err = strconv.Unquote(quoted); err != nil {
		return "", ""
	}
	switch h.Protocol {
	case sniff.ProtocolQUIC:
		return name, sniff.SourceQUICSNI
	case sniff.ProtocolTLS, sniff.ProtocolDTLS:
		return name, sniff.SourceSNI
	}
	return name, sniff.SourceHTTPHost
}

// authority is a host with the port that stood beside it.
func authority(host string, h *sniff.Hint) string {
	switch {
	case h.Port == 0:
		return host
	case h.HostIP.IsValid():
		return netip.AddrPortFrom(h.HostIP, h.Port).String()
	}
	return host + ":" + strconv.Itoa(int(h.Port))
}

// fromClient reports whether only the end that opened a flow would send what was sniffed.
func fromClient(h *sniff.Hint) bool {
	switch h.Protocol {
	case "", sniff.ProtocolSSH, sniff.ProtocolSTUN:
		return false
	}
	return true
}

func protocolName(proto uint8) string {
	switch proto {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	}
	return "icmp"
}
