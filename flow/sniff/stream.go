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
// behind is then how many octets of the last feed lie behind what was read: for who claims nothing, all of them.
type parser interface {
	feed(b []byte, h *Hint) Status
	buffered() int
	behind() int
}

// sniffers is the list of protocols, in the order they are asked. HTTP is last because it takes any method.
func sniffers() [7]sniffer {
	return [...]sniffer{
		{matchTLS, func() parser { return new(tlsHello) }},
		{matchSSL2, func() parser { return &fixed{hint: Hint{Protocol: ProtocolTLS}} }},
		{matchPostgres, func() parser { return new(postgres) }},
		{matchSSH, func() parser { return &fixed{hint: Hint{Protocol: ProtocolSSH}} }},
		{matchSOCKS, func() parser { return &fixed{hint: Hint{Protocol: ProtocolSOCKS}} }},
		{matchH2, func() parser { return new(h2) }},
		{matchHTTP, func() parser { return new(httpHead) }},
	}
}

// fixed is the parser of a protocol that is known by its first octets and claims nothing.
type fixed struct {
	hint Hint
	all  int
}

func (f *fixed) feed(b []byte, h *Hint) Status {
	*h, f.all = f.hint, len(b)
	return Done
}

func (f *fixed) buffered() int { return 0 }
func (f *fixed) behind() int   { return f.all }

// Stream looks at the client's first bytes of one TCP connection. The zero value is ready. It is not safe for
// concurrent use.
type Stream struct {
	parser parser // nil until a sniffer is sure
	buf    []byte // the first octets, while none is
	fed    int
	hint   Hint
	status Status
	behind int
}

// Feed takes the bytes that follow those of the call before, in any split, and looks at the first [MaxStream] of them.
// b is the caller's: nothing of it is kept. After [Done] or [Unknown] it returns the same answer without looking at b.
func (s *Stream) Feed(b []byte) (Hint, Status) {
	if s.status != More || len(b) == 0 {
		return s.hint, s.status
	}
	beyond := max(0, len(b)-(MaxStream-s.fed))
	b = b[:len(b)-beyond]
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
	if s.status == Done && s.parser != nil {
		s.behind = s.parser.behind() + beyond
	}
	if s.status != More {
		s.parser, s.buf = nil, nil
	}
	if s.status == Unknown {
		s.hint = Hint{}
	}
	return s.hint, s.status
}

// Behind is how many octets at the end of the feed that was answered with [Done] lie behind what the claim was read from.
// They are not judged yet: show them to a [Watch].
func (s *Stream) Behind() int { return s.behind }

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
