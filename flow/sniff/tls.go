package sniff

import "fmt"

// Record layer, RFC 8446 section 5.1.
const (
	recordAlert     = 21
	recordHandshake = 22
	recordHeader    = 5
	maxRecord       = 1 << 14
	handshakeHeader = 4
)

// matchTLS recognises a TLS record that begins a ClientHello. The version of the record is no part of the test beyond
// what tells the protocol from others (RFC 8446: it "MUST be ignored for all purposes"; lax servers do ignore it).
// The other handshake messages are no beginning of a connection, nor are alerts; but servers pass over a warning and take
// the hello behind it, so that is TLS with a claim that cannot be used.
func matchTLS(b []byte) match {
	if b[0] == recordAlert {
		return matchPrefixes(b, "\x15\x03\x00\x00\x02\x01", "\x15\x03\x01\x00\x02\x01", "\x15\x03\x02\x00\x02\x01",
			"\x15\x03\x03\x00\x02\x01", "\x15\x03\x04\x00\x02\x01")
	}
	switch {
	case b[0] != recordHandshake || len(b) > 1 && b[1] >= 0x10:
		return no
	case len(b) < recordHeader:
		return maybe
	}
	if n := int(b[3])<<8 | int(b[4]); n == 0 || n > maxRecord {
		if b[1] == 3 {
			return yes // and feed says why it cannot be used
		}
		return no
	}
	if len(b) == recordHeader {
		return maybe
	}
	if b[recordHeader] != typeClientHello {
		return no
	}
	return yes
}

// tlsHello takes a ClientHello out of TLS records. A handshake message may be cut into records at any octet
// (RFC 8446 section 5.1), which has been used to hide names, so it is put together before it is parsed.
type tlsHello struct {
	head [recordHeader]byte
	have int    // octets of head that are there
	left int    // octets of the record that are still to come
	msg  []byte // handshake octets of the records before
	rest int    // with Done: octets of the last feed that lie behind the hello
}

func (t *tlsHello) feed(b []byte, h *Hint) Status {
	h.Protocol = ProtocolTLS
	for len(b) > 0 {
		if t.left == 0 {
			n := copy(t.head[t.have:], b)
			t.have += n
			b = b[n:]
			if t.have < recordHeader {
				return More
			}
			t.have = 0
			t.left = int(t.head[3])<<8 | int(t.head[4])
			switch {
			case t.head[0] != recordHandshake:
				return h.malformed("another record before the end of the ClientHello")
			case t.left == 0:
				return h.malformed("empty handshake record")
			case t.left > maxRecord:
				return h.malformed("record of more than 16384 octets")
			}
			continue
		}
		n := min(t.left, len(b))
		if status := t.handshake(b[:n], t.left-n, h); status != More {
			t.rest += len(b) - n
			return status
		}
		t.left -= n
		b = b[n:]
	}
	return More
}

// handshake takes octets of the handshake stream; left is how many of the record are still to come. A hello that lies whole
// in the first piece is parsed where it lies. In the rest of its record another may begin, which would have no header of its
// own to be known by: so one octet more is waited for, though nobody need wait with us.
func (t *tlsHello) handshake(b []byte, left int, h *Hint) Status {
	if len(t.msg) > 0 {
		t.msg = append(t.msg, b...)
		b = t.msg
	}
	*h = Hint{Protocol: ProtocolTLS}
	status, bad := wholeHello(b, helloKind{source: SourceSNI}, h)
	if bad != "" {
		return h.malformed(bad)
	}
	if status == Done {
		t.rest = len(b) - helloLen(b)
		switch {
		case t.rest > 0 && b[len(b)-t.rest] == typeClientHello:
			return h.malformed("two ClientHellos in a record")
		case t.rest > 0 || left == 0:
			return Done
		}
		h.MayWait = true
	}
	if len(t.msg) == 0 {
		t.msg = append(t.msg, b...)
	}
	return More
}

func (t *tlsHello) buffered() int { return t.have + len(t.msg) }
func (t *tlsHello) behind() int   { return t.rest }

// wholeHello parses the ClientHello at the front of a handshake stream when it is all there.
func wholeHello(msg []byte, kind helloKind, h *Hint) (Status, string) {
	if len(msg) > 0 && msg[0] != typeClientHello {
		return Done, "handshake does not begin with a ClientHello"
	}
	if len(msg) < handshakeHeader {
		return More, ""
	}
	n := helloLen(msg)
	switch {
	case n > MaxHello:
		return Done, fmt.Sprintf("ClientHello of %d octets", n)
	case len(msg) < n:
		return More, ""
	}
	return Done, parseHello(msg[handshakeHeader:n], kind, h)
}

// helloLen is the length of the handshake message whose header is at the front of msg, header included.
func helloLen(msg []byte) int {
	return handshakeHeader + int(msg[1])<<16 + int(msg[2])<<8 + int(msg[3])
}

// matchSSL2 recognises the hello of SSL 2.0 that old clients send to offer SSL 3.0 and TLS as well (RFC 5246 appendix
// E.2). It has no room for a name.
func matchSSL2(b []byte) match {
	if b[0] < 0x80 || len(b) > 2 && b[2] != 1 || len(b) > 3 && b[3] != 3 && b[3] != 0 {
		return no
	}
	const fixed = 11
	if len(b) < fixed {
		return maybe
	}
	r := reader{b: b}
	total := r.u16()&0x7fff + 2
	r.u8()
	version, ciphers, session, challenge := r.u16(), r.u16(), r.u16(), r.u16()
	if version>>8 != 3 && version != 2 || ciphers == 0 || ciphers%3 != 0 || challenge == 0 ||
		total != fixed+ciphers+session+challenge {
		return no
	}
	return yes
}
