//go:build linux

package handoff

import (
	"encoding/binary"

	"github.com/weir-dev/weir/tunnel"
)

// A message on a UDP flow's socket is one octet that says what it is, and the rest.
const (
	recordBatch   = iota // datagrams, each with two octets of length before it; some may be empty
	recordLargest        // four octets: the largest datagram that fits a packet of the path now
	recordEnd            // four octets of code, a string: the flow has ended
)

// Bounds of a UDP flow's messages, in octets.
const (
	maxDatagram = 65507 // RFC 768 over IPv4
	maxBatch    = 1 + 2 + maxDatagram
)

// appendDatagram appends one datagram to a batch, if there is room.
func appendDatagram(b, datagram []byte) ([]byte, bool) {
	if len(b) == 0 {
		b = append(b, recordBatch)
	}
	if len(b)+2+len(datagram) > maxBatch {
		return b, false
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(datagram))), datagram...), true
}

// nextDatagram takes the first datagram off a batch without its first octet. It reports false for one that is cut off.
func nextDatagram(batch []byte) (datagram, rest []byte, ok bool) {
	if len(batch) < 2 {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(batch))
	if len(batch) < n || n > 2+maxDatagram {
		return nil, nil, false
	}
	return batch[2:n:n], batch[n:], true
}

// splitBatch appends the datagrams of a batch, which lie in it, to list.
func splitBatch(list [][]byte, batch []byte) ([][]byte, error) {
	for len(batch) > 0 {
		d, rest, ok := nextDatagram(batch)
		if !ok {
			return list, errMalformed
		}
		list, batch = append(list, d), rest
	}
	return list, nil
}

func encodeLargest(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, recordLargest), uint32(n))
}

func encodeEnd(b []byte, e *tunnel.Error) []byte {
	b = binary.BigEndian.AppendUint32(append(b, recordEnd), uint32(e.Code))
	return appendString(b, e.Text, tunnel.MaxText)
}

// decodeNotice reads a message that is no batch: the largest datagram, or how the flow ended.
func decodeNotice(b []byte) (largest int, end *tunnel.Error, err error) {
	if len(b) == 0 {
		return 0, nil, errMalformed
	}
	r := reader{rest: b[1:]}
	switch b[0] {
	case recordLargest:
		largest = int(min(r.uint32(), maxDatagram))
	case recordEnd:
		end = &tunnel.Error{Code: tunnel.Code(r.uint32())}
		end.Text = r.string(tunnel.MaxText)
	default:
		return 0, nil, errMalformed
	}
	if r.bad || len(r.rest) > 0 {
		return 0, nil, errMalformed
	}
	return largest, end, nil
}
