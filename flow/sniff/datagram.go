package sniff

import "encoding/binary"

// Datagram looks at the first datagram of a UDP flow that is not QUIC: DTLS (RFC 6347, RFC 9147) with the server name of
// its ClientHello, and STUN (RFC 8489, also the beginning of TURN, a relay to anywhere). It never returns [More]: a
// ClientHello that goes on in another datagram is malformed, for its name may be in the other half.
func Datagram(b []byte) (Hint, Status) {
	var h Hint
	switch {
	case isSTUN(b):
		h.Protocol = ProtocolSTUN
	case isDTLSHello(b):
		h.Protocol = ProtocolDTLS
		msg, bad := joinFragments(b)
		if bad == "" {
			bad = parseHello(msg, helloKind{source: SourceSNI, cookie: true}, &h)
		}
		if bad != "" {
			h.malformed(bad)
		}
	default:
		return Hint{}, Unknown
	}
	return h, Done
}

// isSTUN recognises a STUN message by its magic cookie and length (RFC 8489 section 5).
func isSTUN(b []byte) bool {
	const header, cookie = 20, 0x2112a442
	return len(b) >= header && b[0]&0xc0 == 0 && binary.BigEndian.Uint32(b[4:]) == cookie &&
		int(binary.BigEndian.Uint16(b[2:])) == len(b)-header && len(b)%4 == 0
}

// DTLS headers, RFC 6347 sections 4.1 and 4.2.2.
const (
	dtlsRecord   = 13 // type, version, epoch, sequence number, length
	dtlsFragment = 12 // type, length, message number, fragment offset, fragment length
)

// isDTLSHello recognises a record of epoch 0 that begins a ClientHello. DTLS 1.3 keeps the version numbers of 1.2.
func isDTLSHello(b []byte) bool {
	return len(b) >= dtlsRecord+dtlsFragment && b[0] == recordHandshake && b[1] == 0xfe && (b[2] == 0xff || b[2] == 0xfd) &&
		b[3] == 0 && b[4] == 0 && b[dtlsRecord] == typeClientHello
}

// joinFragments returns the body of the ClientHello whose fragments lie in order in the records of one datagram.
func joinFragments(b []byte) ([]byte, string) {
	var body []byte
	for r := (reader{b: b}); !r.empty(); {
		typ := r.u8()
		r.take(10)
		record := reader{b: r.vec16()}
		for !record.empty() {
			kind, total, _, offset := record.u8(), record.u24(), record.u16(), record.u24()
			fragment := record.take(record.u24())
			switch {
			case record.bad, typ != recordHandshake, kind != typeClientHello, offset != len(body), offset+len(fragment) > total:
				return nil, "bad fragment of a ClientHello"
			case len(fragment) == total:
				return fragment, ""
			}
			if body = append(body, fragment...); len(body) == total {
				return body, ""
			}
		}
		if r.bad {
			return nil, "record is truncated"
		}
	}
	return nil, "ClientHello goes on in another datagram"
}
