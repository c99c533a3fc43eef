package wire

import (
	"io"
)

// MaxMessage bounds the fields of a control message, in octets.
const MaxMessage = 32 << 10

// Types of control messages.
const (
	typeHello   = 1
	typeWelcome = 2
	typePing    = 3
	typePong    = 4
	typeDrain   = 5
	typeRoutes  = 6
	typeRenew   = 7
	typeRenewed = 8
	typeGoodbye = 9
)

// Message is a control message: one of *Hello, *Welcome, *Ping, *Pong, *Drain, *Routes, *Renew, *Renewed and *Goodbye.
type Message interface {
	typ() uint64
	fields(*block)
	field(typ uint64, v value) error
}

// AppendMessage appends m.
func AppendMessage(b []byte, m Message) []byte {
	var f block
	m.fields(&f)
	return appendFrame(b, m.typ(), f)
}

// ReadMessage reads a message and no octet more. It returns nil without an error for a type that is not known.
func ReadMessage(r io.Reader) (Message, error) {
	typ, body, err := readFrame(r, MaxMessage)
	if err != nil {
		return nil, err
	}
	return parseMessage(typ, body)
}

func parseMessage(typ uint64, body []byte) (Message, error) {
	m := newMessage(typ)
	if m == nil {
		return nil, nil
	}
	if err := eachField(body, m.field); err != nil {
		return nil, err
	}
	return m, nil
}

func newMessage(typ uint64) Message {
	switch typ {
	case typeHello:
		return &Hello{}
	case typeWelcome:
		return &Welcome{}
	case typePing:
		return &Ping{}
	case typePong:
		return &Pong{}
	case typeDrain:
		return &Drain{}
	case typeRoutes:
		return &Routes{}
	case typeRenew:
		return &Renew{}
	case typeRenewed:
		return &Renewed{}
	case typeGoodbye:
		return &Goodbye{}
	}
	return nil
}

// IsGrease says whether a type, of whatever, is one of those that never get a meaning, so that they are sent now and then
// and readers do not forget to skip what they do not know (RFC 8701 has the idea).
func IsGrease(typ uint64) bool { return typ >= 0x21 && (typ-0x21)%0x1f == 0 }

// GreaseType returns the nth of these types.
func GreaseType(n uint32) uint64 { return 0x21 + 0x1f*uint64(n) }

// AppendGrease appends a control message that means nothing.
func AppendGrease(b []byte, n uint32) []byte { return appendFrame(b, GreaseType(n), []byte("grease")) }
