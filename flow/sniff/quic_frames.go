package sniff

// Frames that an Initial packet may carry (RFC 9000 section 12.4, table 3).
const (
	framePadding = 0x00
	framePing    = 0x01
	frameACK     = 0x02
	frameACKECN  = 0x03
	frameCrypto  = 0x06
	frameClose   = 0x1c
)

// takeFrames reads the frames of an Initial packet and puts their CRYPTO data into the stream. The result says what is
// wrong; a server closes the connection on the same.
func takeFrames(b []byte, stream *cryptoStream) string {
	r := reader{b: b}
	for !r.empty() {
		if r.b[0] >= 0x40 {
			return "bad frame type in an Initial packet"
		}
		switch r.u8() {
		case framePadding, framePing:
		case frameACK:
			takeACK(&r)
		case frameACKECN:
			takeACK(&r)
			r.varint()
			r.varint()
			r.varint()
		case frameCrypto:
			offset, data := r.varint(), r.vecVar()
			if r.bad {
				break
			}
			if bad := stream.write(offset, data); bad != "" {
				return bad
			}
		case frameClose:
			r.varint()
			r.varint()
			r.vecVar()
		default:
			return "bad frame type in an Initial packet"
		}
		if r.bad {
			return "a frame of an Initial packet is truncated"
		}
	}
	return ""
}

func takeACK(r *reader) {
	r.varint() // largest acknowledged
	r.varint() // delay
	ranges := r.varint()
	r.varint() // first range
	for ; ranges > 0 && !r.bad; ranges-- {
		r.varint()
		r.varint()
	}
}

// cryptoStream puts the CRYPTO data of one connection together (RFC 9000 section 7.5). Data may come in any order and
// more than once, but an octet that came may not change: the server could have taken either.
type cryptoStream struct {
	data  []byte
	there []uint64 // bit set: octet of data is there
	front int      // octets from 0 that are there without a gap
}

// write takes data at an offset; the result says why it cannot.
func (s *cryptoStream) write(offset uint64, data []byte) string {
	if offset > MaxCrypto || offset+uint64(len(data)) > MaxCrypto {
		return "CRYPTO data beyond 65536 octets"
	}
	start, end := int(offset), int(offset)+len(data)
	if grow := end - len(s.data); grow > 0 {
		s.data = append(s.data, make([]byte, grow)...)
		s.there = append(s.there, make([]uint64, (end+63)/64-len(s.there))...)
	}
	for i, c := range data {
		at := start + i
		word, bit := &s.there[at/64], uint64(1)<<(at%64)
		if *word&bit != 0 && s.data[at] != c {
			return "CRYPTO data that overlaps and differs"
		}
		*word |= bit
		s.data[at] = c
	}
	for s.front < len(s.data) && s.there[s.front/64]&(1<<(s.front%64)) != 0 {
		s.front++
	}
	return ""
}

// whole is what has come without a gap from the beginning.
func (s *cryptoStream) whole() []byte { return s.data[:s.front] }
