package sniff

import "slices"

// Handshake message types and extensions that are looked at.
const (
	typeClientHello = 1

	extServerName = 0
	extALPN       = 16
	extECH        = 0xfe0d // RFC 9849

	nameTypeHost = 0

	// maxExtensions is the number of extensions of a hello; browsers send fewer than 30.
	maxExtensions = 1024
)

// helloKind tells the three homes of a ClientHello apart.
type helloKind struct {
	source string // name source of its server name
	cookie bool   // DTLS: a cookie follows the session ID (RFC 6347 section 4.2.1)
}

// parseHello reads the body of a ClientHello (RFC 8446 section 4.1.2, without the handshake header) into h. It is as
// strict as a server: every length must fit exactly. The result says what is wrong, "" if nothing is.
func parseHello(body []byte, kind helloKind, h *Hint) string {
	r := reader{b: body}
	r.take(2 + 32) // legacy_version, random
	session := r.vec8()
	if kind.cookie {
		r.vec8()
	}
	ciphers, compression := r.vec16(), r.vec8()
	switch {
	case r.bad:
		return "ClientHello is truncated"
	case len(session) > 32:
		return "session ID of more than 32 octets"
	case len(ciphers) == 0 || len(ciphers)%2 != 0:
		return "bad length of cipher_suites"
	case len(compression) == 0:
		return "no compression method"
	case r.empty(): // TLS 1.2 and older may leave the extensions out
		return ""
	}
	extensions := r.vec16()
	if r.bad || !r.empty() {
		return "length of extensions does not fit the ClientHello"
	}
	return parseExtensions(extensions, kind, h)
}

func parseExtensions(b []byte, kind helloKind, h *Hint) string {
	seen := make([]int, 0, 32)
	for r := (reader{b: b}); !r.empty(); {
		typ, data := r.u16(), r.vec16()
		switch {
		case r.bad:
			return "an extension is truncated"
		case slices.Contains(seen, typ):
			return "an extension stands twice"
		case len(seen) == maxExtensions:
			return "too many extensions"
		}
		seen = append(seen, typ)
		bad := ""
		switch typ {
		case extServerName:
			bad = parseServerName(data, kind.source, h)
		case extALPN:
			bad = parseALPN(data, h)
		case extECH:
			h.ECH = true
		}
		if bad != "" {
			return bad
		}
	}
	return ""
}

// parseServerName reads the server_name extension (RFC 6066 section 3). Only a list of exactly one host_name has one
// reading: servers differ in which of two they take, and in whether they skip other types. The RFC forbids IP literals;
// clients send them all the same, and the hint then says which address was meant.
func parseServerName(data []byte, source string, h *Hint) string {
	r := reader{b: data}
	list := reader{b: r.vec16()}
	if r.bad || !r.empty() {
		return "bad length of server_name"
	}
	if list.empty() {
		return "server_name is empty"
	}
	typ, name := list.u8(), list.vec16()
	switch {
	case list.bad:
		return "bad length in server_name"
	case !list.empty():
		return "two names in server_name"
	case typ != nameTypeHost:
		return "a name type other than host_name in server_name"
	}
	c, bad := claimName(string(name))
	h.claimed(c, source)
	return bad
}

// parseALPN reads the application_layer_protocol_negotiation extension (RFC 7301 section 3.1).
func parseALPN(data []byte, h *Hint) string {
	r := reader{b: data}
	list := reader{b: r.vec16()}
	if r.bad || !r.empty() || list.empty() {
		return "bad length of application_layer_protocol_negotiation"
	}
	for !list.empty() {
		p := list.vec8()
		if len(p) == 0 {
			return "bad name in application_layer_protocol_negotiation"
		}
		if len(h.ALPN) < MaxALPN {
			h.ALPN = append(h.ALPN, string(p))
		}
	}
	return ""
}
