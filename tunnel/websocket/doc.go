// Package websocket carries QUIC packets where UDP is blocked: in binary messages of a WebSocket (RFC 6455) over TLS.
//
//	quic-go | Conn, a net.PacketConn | == WebSocket, TLS, perhaps a proxy == | Server | loopback UDP socket | the edge's QUIC
//	client                                                                     hosted end, one socket per session   listener
//
// The tunnel inside stays what it is: one protocol, one authentication, one state machine. Who breaks the outer TLS, as a
// company's proxy does, sees QUIC packets, which are encrypted and authenticated end to end by the mutual TLS inside QUIC.
// The outer certificate therefore protects nothing but the way. It is checked all the same, against the system's roots or
// the edge's own CA, so that a stranger on the way cannot count packets or keep an edge's address to himself.
//
// A message holds one or more packets, each behind its length in two octets (network order). Whatever waits while the
// socket is busy goes into one message: one frame header and one TLS record for many packets under load, no wait without.
// Packets wait in a queue of [QueueLen]; what comes then is dropped. QUIC takes that for congestion, which it is, and backs
// off; a queue that grew would only make each packet late. Of the kernel's own buffer only a small part may be unsent.
//
// At the hosted end each session has a UDP socket of its own, connected to the edge's one QUIC listener over loopback. The
// listener sees ordinary UDP: it keeps segmentation offload and address validation, and a session cannot send anywhere
// else. [Server.Lookup] tells by the socket's address who is behind it.
package websocket
