package sniff

// maxCID is the longest connection ID of the known versions (RFC 9000 section 17.2).
const maxCID = 20

// longPacket is one packet with a long header (RFC 9000 section 17.2). Its slices are parts of the datagram.
type longPacket struct {
	version uint32
	known   bool // the version is known; if not, only version and connection IDs are set
	kind    byte
	dcid    []byte
	raw     []byte // the packet, from its first octet to the end of its Length
	number  int    // offset of the packet number in raw
}

// nextPacket reads the long header at the front of what is left of a datagram and returns what follows the packet
// (RFC 9000 section 12.2). ok is false when there is none: a short header, another protocol, lengths that do not fit.
// The fixed bit is not looked at, clients may grease it (RFC 9287).
func nextPacket(b []byte) (p longPacket, rest []byte, ok bool) {
	r := reader{b: b}
	first := byte(r.u8())
	p.version = uint32(r.uint(4))
	p.dcid = r.vec8()
	scid := r.vec8()
	if r.bad || first&0x80 == 0 || p.version == 0 {
		return p, nil, false
	}
	v, known := quicVersionOf(p.version)
	if !known {
		return p, nil, true
	}
	if len(p.dcid) > maxCID || len(scid) > maxCID {
		return p, nil, false
	}
	p.known = true
	p.kind = v.types[first>>4&3]
	switch p.kind {
	case typeRetry: // only servers send it
		return p, nil, false
	case typeInitial:
		r.vecVar() // token
	}
	length := r.varint()
	if r.bad || length > uint64(len(r.b)) {
		return p, nil, false
	}
	p.number = len(b) - len(r.b)
	end := p.number + int(length)
	p.raw = b[:end:end]
	return p, b[end:], true
}

// IsInitial reports whether the datagram carries an Initial packet of a known version, and the destination connection ID
// of the first one (a part of datagram, not a copy). It opens nothing and is cheap enough for every datagram of a flow.
func IsInitial(datagram []byte) (dcid []byte, ok bool) {
	for len(datagram) > 0 {
		p, rest, ok := nextPacket(datagram)
		if !ok || !p.known {
			return nil, false
		}
		if p.kind == typeInitial {
			return p.dcid, true
		}
		datagram = rest
	}
	return nil, false
}

// IsForeign reports whether the datagram begins with a long header of a version that is not known (RFC 8999 section 5.1):
// were it QUIC, the name in it could not be read.
func IsForeign(datagram []byte) bool {
	p, _, ok := nextPacket(datagram)
	return ok && !p.known
}
