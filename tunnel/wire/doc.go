// Package wire is the format of weir/1, as docs/tunnel.md specifies it: what stands at the beginning of each stream, on the
// control stream, in a datagram and in a capsule. It has functions from and to octets, and no state.
//
// All integers are those of RFC 9000 section 16. Whatever may grow is a list of fields, each with a type and a length; a
// reader skips the types that it does not know, and so it does with control messages and capsules.
//
//	stream   header: kind, length, fields; from the other side STATUS: type, length, fields; then the bytes of the flow
//	control  kind 0; then messages, each of them type, length, fields
//	datagram stream id of the flow, context, payload
//	capsule  type, length, context, payload (RFC 9297 section 3.2): a datagram on the flow's stream
//
// Both ends take the other for an enemy. Each length is compared with its bound before anything is allocated for it, the
// number of fields is bounded, each integer has a range, and strings come out as they went in: who shows them escapes
// them. A parser's error is or wraps a [tunnel.Error] with the code [tunnel.Malformed], or is the reader's own.
package wire
