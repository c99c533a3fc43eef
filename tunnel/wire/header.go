package wire

import (
	"io"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// Kind is what a stream is for: the first integer on it.
type Kind uint64

// The kinds.
const (
	Control Kind = 0 // the first stream of the client, and no other
	TCP     Kind = 1
	UDP     Kind = 2
	DNS     Kind = 3
	Probe   Kind = 5
)

// Bounds of a header.
const (
	// MaxHeader bounds the fields of a header and of a STATUS, in octets.
	MaxHeader = 4 << 10

	// MaxLabel bounds the names of an app and of a sandbox and the id of a flow, in octets.
	MaxLabel = 128

	// MaxName bounds a host name (RFC 1035 section 2.3.4), in octets.
	MaxName = 253

	// MaxPatience bounds how long an edge may let a client try.
	MaxPatience = 5 * time.Minute
)

// Types of the fields in a header.
const (
	headerAddress  = 1 // 4 or 16 octets of address, 2 of port
	headerFlow     = 2
	headerApp      = 3
	headerSandbox  = 4
	headerName     = 5 // one for each name
	headerPatience = 6 // milliseconds
)

// Header is what a stream that is not the control stream begins with.
type Header struct {
	Kind Kind

	// Open has Network by Kind, and neither Space nor Via: these stay on the hosted side. DNS and Probe have no Addr.
	Open tunnel.Open

	// Patience is how long the edge waits for the STATUS, in milliseconds on the wire; 0 leaves it to the client.
	Patience time.Duration
}

// AppendHeader appends h. Names beyond [tunnel.MaxNames] and what is longer than its bound is left out, since it would be
// refused.
func AppendHeader(b []byte, h Header) []byte {
	var f block
	if h.Open.Addr.IsValid() {
		f.octets(headerAddress, appendAddrPort(nil, h.Open.Addr))
	}
	f.text(headerFlow, upTo(h.Open.Flow, MaxLabel))
	f.text(headerApp, upTo(h.Open.App, MaxLabel))
	f.text(headerSandbox, upTo(h.Open.Sandbox, MaxLabel))
	for _, name := range h.Open.Names[:min(len(h.Open.Names), tunnel.MaxNames)] {
		if len(name) <= MaxName {
			f.text(headerName, name)
		}
	}
	f.integer(headerPatience, uint64(min(h.Patience, MaxPatience).Milliseconds()))
	return appendFrame(b, uint64(h.Kind), f)
}

// upTo cuts s to at most max octets.
func upTo(s string, max int) string { return s[:min(len(s), max)] }

// ReadHeader reads a header and no octet more. A kind that is not known is no error: the stream is to be refused, and the
// session goes on.
func ReadHeader(r io.Reader) (Header, error) {
	kind, body, err := readFrame(r, MaxHeader)
	if err != nil {
		return Header{}, err
	}
	return parseHeader(Kind(kind), body)
}

func parseHeader(kind Kind, body []byte) (Header, error) {
	h := Header{Kind: kind}
	if kind != TCP && kind != UDP && kind != DNS && kind != Probe {
		return h, nil
	}
	o := &h.Open
	err := eachField(body, func(typ uint64, v value) (err error) {
		switch typ {
		case headerAddress:
			o.Addr, err = parseAddrPort(v.octets)
		case headerFlow:
			err = v.text(&o.Flow, MaxLabel)
		case headerApp:
			err = v.text(&o.App, MaxLabel)
		case headerSandbox:
			err = v.text(&o.Sandbox, MaxLabel)
		case headerName:
			var name string
			if len(o.Names) == tunnel.MaxNames {
				return malformed("more than %d names", tunnel.MaxNames)
			}
			err = v.text(&name, MaxName)
			o.Names = append(o.Names, name)
		case headerPatience:
			var ms uint64
			err = v.integer(&ms, uint64(MaxPatience.Milliseconds()))
			h.Patience = time.Duration(ms) * time.Millisecond
		}
		return err
	})
	switch {
	case err != nil:
		return Header{}, err
	case kind == TCP:
		o.Network = "tcp"
	case kind == UDP:
		o.Network = "udp"
	}
	if o.Network != "" && !o.Addr.IsValid() {
		return Header{}, malformed("a flow without an address")
	}
	return h, nil
}

// appendAddrPort appends 6 or 18 octets. An IPv4 address in an IPv6 one is sent as IPv4; a zone has no meaning elsewhere.
func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	b = append(b, a.Addr().Unmap().AsSlice()...)
	return append(b, byte(a.Port()>>8), byte(a.Port()))
}

func parseAddrPort(b []byte) (netip.AddrPort, error) {
	if len(b) != 6 && len(b) != 18 {
		return netip.AddrPort{}, malformed("an address of %d octets", len(b))
	}
	addr, _ := netip.AddrFromSlice(b[:len(b)-2])
	if addr.Is4In6() {
		return netip.AddrPort{}, malformed("an IPv4 address in an IPv6 address")
	}
	return netip.AddrPortFrom(addr, uint16(b[len(b)-2])<<8|uint16(b[len(b)-1])), nil
}
