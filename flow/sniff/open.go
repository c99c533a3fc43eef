package sniff

// MayOpen reports whether a datagram could be one that opens something: a packet with a QUIC long header (RFC 8999 section
// 5.1) or a DTLS handshake record (RFC 6347 section 4.1). It looks at the first octet alone and errs on the side of yes;
// [IsInitial], [IsForeign] and [Datagram] know. What it says no to is none of these.
func MayOpen(b []byte) bool {
	return len(b) > 0 && (b[0]&0x80 != 0 || b[0] == recordHandshake)
}
