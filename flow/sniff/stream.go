package sniff

// match says how the beginning of a stream fits a protocol.
type match uint8

const (
	no    match = iota // it does not, whatever follows
	maybe              // more octets are needed to tell
	yes
)

// sniffer is one protocol of streams. match is asked with the first octets, at least one, until it is sure; the parser
// then gets all of them, and what follows.
type sniffer struct {
	match func([]byte) match
	start func() parser
}

// parser reads the octets of a stream in order and keeps its place. It is not fed again after another answer than More.
type parser interface {
	feed(b []byte, h *Hint) Status
	buffered() int
}

// sniffers is the list of protocols, in the order they are asked. HTTP is last because it takes any method.
func sniffers() [7]sniffer {
	return [...]sniffer{
		{matchTLS, func() parser { return new(tlsHello) }},
		{matchSSL2, func() parser { return fixed{Protocol: ProtocolTLS} }},
		{matchPostgres, func() parser { return postgres{} }},
		{matchSSH, func() parser { return fixed{Protocol: ProtocolSSH} }},
		{matchSOCKS, func() parser { return fixed{Protocol: ProtocolSOCKS} }},
		{matchH2, func() parser { return new(h2) }},
		{matchHTTP, func() parser { return new(httpHead) }},
	}
}

// fixed is the parser of a protocol that is known by its first octets and claims nothing.
type fixed Hint

func (f fixed) feed(_ []byte, h *Hint) Status {
	*h = Hint(f)
	return Done
}

func (f fixed) buffered() int { return 0 }

// Stream looks at the client's first bytes of one TCP connection. The zero value is ready. It is not safe for
// concurrent use.
type Stream struct {
	parser parser // nil until a sniffer is sure
	buf    []byte // the first octets, while none is
	fed    int
	hint   Hint
	status Status
}

// Feed takes the bytes that follow those of the call before, in any split, and looks at the first [MaxStream] of them.
// b is the caller's: nothing of it is kept. After [Done] or [Unknown] it returns the same answer without looking at b.
func (s *Stream) Feed(b []byte) (Hint, Status) {
	if s.status != More || len(b) == 0 {
		return s.hint, s.status
	}
	b = b[:min(len(b), MaxStream-s.fed)]
	s.fed += len(b)
	if s.parser == nil {
		s.status, b = s.recognise(b)
	}
	if s.parser != nil {
		s.status = s.parser.feed(b, &s.hint)
	}
	if s.status == More && s.fed == MaxStream {
		s.status = s.hint.malformed("the claim is not complete within the first octets that are looked at")
	}
	if s.status != More {
		s.parser, s.buf = nil, nil
	}
	if s.status == Unknown {
		s.hint = Hint{}
	}
	return s.hint, s.status
}

// recognise looks for the sniffer of the stream and returns the octets to begin with.
func (s *Stream) recognise(b []byte) (Status, []byte) {
	if len(s.buf) > 0 {
		s.buf = append(s.buf, b...)
		b = s.buf
	}
	for _, candidate := range sniffers() {
		switch candidate.match(b) {
		case yes:
			s.parser, s.buf = candidate.start(), nil
			return More, b
		case maybe:
			if len(s.buf) == 0 {
				s.buf = append(s.buf, b...)
			}
			return More, nil
		}
	}
	return Unknown, nil
}

// Buffered is the number of octets kept, at most [MaxStream].
func (s *Stream) Buffered() int {
	n := len(s.buf)
	if s.parser != nil {
		n += s.parser.buffered()
	}
	return n
}
