package sniff

// QUIC looks at the client's datagrams of one UDP 5-tuple, for one connection. The zero value is ready. It is not safe
// for concurrent use. When a tuple carries a second connection ([IsInitial] with another connection ID after [Done]),
// give that one a QUIC of its own.
type QUIC struct {
	n int
}

// Feed takes one datagram from the client: [More] while the ClientHello is incomplete, [Unknown] when the datagram is
// no QUIC long header of a known version (Protocol is still "quic" for an unknown version).
func (q *QUIC) Feed(datagram []byte) (Hint, Status) { return Hint{}, Unknown }

// IsInitial reports whether the datagram begins with an Initial packet of a known version, and its destination
// connection ID (a part of datagram, not a copy). It opens nothing: a server's or a forged packet looks the same.
func IsInitial(datagram []byte) (dcid []byte, ok bool) { return nil, false }
