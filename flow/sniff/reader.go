package sniff

// reader takes fields off the front of a message in network byte order. A field that is not there makes the reader bad
// for good and reads as zero, so that a parser may read a whole structure and ask once whether it was all there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint(octets int) int {
	v := 0
	for _, c := range r.take(octets) {
		v = v<<8 | int(c)
	}
	return v
}

func (r *reader) u8() int  { return r.uint(1) }
func (r *reader) u16() int { return r.uint(2) }
func (r *reader) u24() int { return r.uint(3) }

// vec8 and vec16 take a vector with a length of one and of two octets (RFC 8446 section 3.4).
func (r *reader) vec8() []byte  { return r.take(r.u8()) }
func (r *reader) vec16() []byte { return r.take(r.u16()) }

// varint takes a QUIC variable-length integer (RFC 9000 section 16).
func (r *reader) varint() uint64 {
	if r.bad || len(r.b) == 0 {
		r.bad = true
		return 0
	}
	n := 1 << (r.b[0] >> 6)
	first := r.b[0] & 0x3f
	v := uint64(0)
	for i, c := range r.take(n) {
		if i == 0 {
			c = first
		}
		v = v<<8 | uint64(c)
	}
	return v
}

// vecVar takes a vector with a varint length.
func (r *reader) vecVar() []byte {
	n := r.varint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

func (r *reader) empty() bool { return len(r.b) == 0 }
