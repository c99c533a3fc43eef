package wire

import (
	"encoding/binary"
	"io"
)

// MaxVarint is the largest integer of RFC 9000 section 16.
const MaxVarint = 1<<62 - 1

// AppendVarint appends v in the shortest encoding. v is at most [MaxVarint].
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	case v <= MaxVarint:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	}
	panic("wire: an integer of more than 62 bits")
}

// VarintLen is how many octets AppendVarint appends.
func VarintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	}
	return 8
}

// ParseVarint reads the integer that b begins with, in any of its encodings, and returns how many octets it has; 0 when b
// ends before.
func ParseVarint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// ReadVarint reads an integer and no octet more. A stream that ends inside of one gives io.ErrUnexpectedEOF.
func ReadVarint(r io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, err
	}
	n := 1 << (b[0] >> 6)
	if n > 1 {
		if _, err := io.ReadFull(r, b[1:n]); err != nil {
			return 0, unexpected(err)
		}
	}
	v, _ := ParseVarint(b[:n])
	return v, nil
}

// unexpected makes an end of stream inside of something what it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
