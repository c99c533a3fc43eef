package wire

import "io"

// MaxPayload is the largest payload of a UDP datagram over IPv4 (RFC 768), in octets.
const MaxPayload = 65507

// ContextPayload is the only context (as in RFC 9298 section 4) so far: what follows is the payload of a UDP datagram.
const ContextPayload = 0

// MaxDatagramHeader is the longest header of a datagram that AppendDatagramHeader makes, in octets.
const MaxDatagramHeader = 8 + 1

// AppendDatagramHeader appends what stands before the payload of a QUIC datagram (RFC 9221).
func AppendDatagramHeader(b []byte, stream uint64) []byte {
	return append(AppendVarint(b, stream), ContextPayload)
}

// DatagramHeaderLen is how many octets that is.
func DatagramHeaderLen(stream uint64) int { return VarintLen(stream) + 1 }

// ParseDatagram takes a QUIC datagram apart. The payload is part of b.
func ParseDatagram(b []byte) (stream, context uint64, payload []byte, ok bool) {
	stream, n := ParseVarint(b)
	context, m := ParseVarint(b[n:])
	if n == 0 || m == 0 {
		return 0, 0, nil, false
	}
	return stream, context, b[n+m:], true
}

// CapsuleDatagram is the type of the capsule that holds a datagram (RFC 9297 section 3.5).
const CapsuleDatagram = 0

// MaxCapsule bounds the value of a capsule, in octets: also of those that are skipped.
const MaxCapsule = 8 + MaxPayload

// AppendCapsuleHeader appends what stands before the payload of a datagram that goes on the flow's stream.
func AppendCapsuleHeader(b []byte, payload int) []byte {
	b = append(b, CapsuleDatagram)
	b = AppendVarint(b, uint64(payload)+1)
	return append(b, ContextPayload)
}

// ReadCapsule reads the next capsule that holds a payload into b, which has room for [MaxPayload] octets, and skips others.
// The end of the stream before a capsule is io.EOF.
func ReadCapsule(r io.Reader, b []byte) (n int, err error) {
	for {
		typ, err := ReadVarint(r)
		if err != nil {
			return 0, err
		}
		length, err := ReadVarint(r)
		if err != nil {
			return 0, unexpected(err)
		}
		if length > MaxCapsule {
			return 0, malformed("a capsule of %d octets", length)
		}
		value := io.LimitReader(r, int64(length))
		if typ == CapsuleDatagram {
			n, ok, err := readPayload(value, b)
			if err != nil || ok {
				return n, err
			}
		}
		if _, err := io.Copy(io.Discard, value); err != nil {
			return 0, unexpected(err)
		}
		if value.(*io.LimitedReader).N > 0 {
			return 0, io.ErrUnexpectedEOF
		}
	}
}

// readPayload reads the value of a capsule with a datagram. It reports false for a context that is not known.
func readPayload(value io.Reader, b []byte) (n int, ok bool, err error) {
	context, err := ReadVarint(value)
	if err != nil {
		return 0, false, unexpected(err)
	}
	if context != ContextPayload {
		return 0, false, nil
	}
	n = int(value.(*io.LimitedReader).N)
	if n > len(b) {
		return 0, false, malformed("a datagram of %d octets", n)
	}
	if _, err := io.ReadFull(value, b[:n]); err != nil {
		return 0, false, unexpected(err)
	}
	return n, true, nil
}
