package wire

import (
	"io"

	"github.com/weir-dev/weir/tunnel"
)

// MaxFields bounds the fields of one header or message, known or not.
const MaxFields = 512

// malformed is the error of a parser.
func malformed(format string, args ...any) error {
	return tunnel.Errorf(tunnel.Malformed, format, args...)
}

// block is a list of fields under construction.
type block []byte

func (f *block) octets(typ uint64, value []byte) {
	*f = AppendVarint(*f, typ)
	*f = AppendVarint(*f, uint64(len(value)))
	*f = append(*f, value...)
}

// text appends a field unless s is empty.
func (f *block) text(typ uint64, s string) {
	if s != "" {
		f.octets(typ, []byte(s))
	}
}

// integer appends a field unless v is 0, which is what its absence says.
func (f *block) integer(typ, v uint64) {
	if v != 0 {
		f.octets(typ, AppendVarint(nil, v))
	}
}

// eachField calls known with the fields of body in order.
func eachField(body []byte, known func(typ uint64, v value) error) error {
	for count := 0; len(body) > 0; count++ {
		if count == MaxFields {
			return malformed("more than %d fields", MaxFields)
		}
		typ, n := ParseVarint(body)
		if n == 0 {
			return malformed("a field ends early")
		}
		body = body[n:]
		length, n := ParseVarint(body)
		if n == 0 || length > uint64(len(body)-n) {
			return malformed("field %d ends early", typ)
		}
		body = body[n:]
		if err := known(typ, value{typ, body[:length]}); err != nil {
			return err
		}
		body = body[length:]
	}
	return nil
}

// value is what a field holds.
type value struct {
	typ    uint64
	octets []byte
}

// text reads at most max octets.
func (v value) text(to *string, max int) error {
	if len(v.octets) > max {
		return malformed("field %d has %d octets, at most %d are allowed", v.typ, len(v.octets), max)
	}
	*to = string(v.octets)
	return nil
}

// raw reads a copy of at most max octets.
func (v value) raw(to *[]byte, max int) error {
	if len(v.octets) > max {
		return malformed("field %d has %d octets, at most %d are allowed", v.typ, len(v.octets), max)
	}
	*to = append([]byte(nil), v.octets...)
	return nil
}

// integer reads an integer of at most max.
func (v value) integer(to *uint64, max uint64) error {
	i, n := ParseVarint(v.octets)
	if n == 0 || n != len(v.octets) {
		return malformed("field %d is no integer", v.typ)
	}
	if i > max {
		return malformed("field %d is %d, at most %d is allowed", v.typ, i, max)
	}
	*to = i
	return nil
}

// appendFrame appends a type, a length and a body.
func appendFrame(b []byte, typ uint64, body []byte) []byte {
	b = AppendVarint(b, typ)
	b = AppendVarint(b, uint64(len(body)))
	return append(b, body...)
}

// readFrame reads a type, a length of at most max, and the body.
func readFrame(r io.Reader, max uint64) (typ uint64, body []byte, err error) {
	typ, err = ReadVarint(r)
	if err != nil {
		return 0, nil, err
	}
	length, err := ReadVarint(r)
	if err != nil {
		return 0, nil, unexpected(err)
	}
	if length > max {
		return 0, nil, malformed("type %d has %d octets, at most %d are allowed", typ, length, max)
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	return typ, body, nil
}
