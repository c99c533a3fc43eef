// Package session is one authenticated connection of weir/1 over QUIC: the edge opens flows, the client dials them.
//
//	Edge.OpenStream --- HEADER ---> Client -> Handler.Dial
//	                <-- STATUS ----
//	                <== octets ===>          one bidirectional stream for a TCP flow
//	Edge.OpenDatagrams              the same, and DATAGRAM frames that name the stream
//	Edge.Query                      a stream for one question
//	control                         the client's first stream: HELLO, WELCOME, DRAIN, RENEW ...
//
// Whoever has a *quic.Conn whose other end has been authenticated makes an end of a session of it: [Accept] on the hosted
// side, [Connect] on the user's. The format is package wire's; what lies on a stream before the octets of its flow is marked
// as to be delivered even when the stream is reset, so that the reason for a failure is never lost.
//
// A TCP flow's end of stream is the stream's FIN, a reset of either side resets both of its directions with a [tunnel.Code],
// and a lost session ends its flows with [tunnel.Lost]. Octets are carried in pieces of up to 128 KiB, through buffers that a
// flow holds only while there is something to carry.
//
// Neither end trusts the other: what the other side may do is bounded by the constants of this package and of package wire,
// and what goes beyond is counted, and ends the stream or the session.
package session
