package sniff

// Stream looks at the client's first bytes of one TCP connection. The zero value is ready. It is not safe for
// concurrent use.
type Stream struct {
	buf []byte
}

// Feed takes the bytes that follow those of the call before, in any split. After [Done] or [Unknown] it returns the same
// answer without looking at b.
func (s *Stream) Feed(b []byte) (Hint, Status) { return Hint{}, Unknown }

// Buffered is the number of octets kept, at most [MaxStream].
func (s *Stream) Buffered() int { return len(s.buf) }
