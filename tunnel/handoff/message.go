//go:build linux

package handoff

import (
	"encoding/binary"
	"net/netip"

	"github.com/weir-dev/weir/tunnel"
)

// kind says what a control message is. A message is its kind, the id of the flow or query (eight octets), and what the kind
// has beside; numbers are big endian, strings have two octets of length.
type kind uint8

const (
	kindOpenStream    kind = iota + 1 // flow, address, names, via
	kindOpenDatagrams                 // the same
	kindQuery                         // via, message
	kindFin                           // nothing more is written to the flow's socket: its end is a FIN
	kindClose                         // the socket is closed, what was written is to be delivered
	kindAbort                         // code: the flow, or the open or query that is under way, is over
	kindOpened                        // space, client, largest datagram; with one descriptor
	kindFailed                        // code, text
	kindAnswer                        // space, client, message
	kindEnd                           // code, text: OK for a FIN, anything else for both directions
	kinds
)

// Bounds of what stands in a message, in octets.
const (
	maxMessage = 66 << 10 // of all: a DNS message and what is around it
	maxName    = 255
	maxFlow    = 64
	maxClient  = 128
	maxQuery   = 65535
	headSize   = 9
)

// message is any of them; only what its kind has is set.
type message struct {
	kind kind
	id   uint64

	open  tunnel.Open // Flow, Addr, Names, Via
	body  []byte      // of a query or an answer: lies in the buffer that was decoded
	code  tunnel.Code
	text  string
	by    tunnel.Identity
	limit uint32 // opened: the largest datagram
}

// fail returns the *tunnel.Error that the message tells of.
func (m *message) fail() *tunnel.Error { return &tunnel.Error{Code: m.code, Text: m.text} }

// encode appends the message to b. What is too long for its field is cut: the other side refuses it otherwise.
func (m *message) encode(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(m.kind)), m.id)
	switch m.kind {
	case kindOpenStream, kindOpenDatagrams:
		b = appendString(b, m.open.Flow, maxFlow)
		b = appendString(b, m.open.Via, maxClient)
		addr, _ := m.open.Addr.MarshalBinary()
		b = appendString(b, string(addr), maxName)
		names := m.open.Names[:min(len(m.open.Names), tunnel.MaxNames)]
		b = append(b, byte(len(names)))
		for _, name := range names {
			b = appendString(b, name, maxName)
		}
	case kindQuery:
		b = appendString(b, m.open.Via, maxClient)
		b = append(b, m.body...)
	case kindAbort:
		b = binary.BigEndian.AppendUint32(b, uint32(m.code))
	case kindOpened:
		b = appendString(b, m.by.Space, maxClient)
		b = appendString(b, m.by.Client, maxClient)
		b = binary.BigEndian.AppendUint32(b, m.limit)
	case kindAnswer:
		b = appendString(b, m.by.Space, maxClient)
		b = appendString(b, m.by.Client, maxClient)
		b = append(b, m.body...)
	case kindFailed, kindEnd:
		b = binary.BigEndian.AppendUint32(b, uint32(m.code))
		b = appendString(b, m.text, tunnel.MaxText)
	}
	return b
}

func appendString(b []byte, s string, most int) []byte {
	s = s[:min(len(s), most)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// errMalformed says that the other process does not keep to the format.
var errMalformed = tunnel.Errorf(tunnel.Malformed, "handoff message")

// decode reads one message. Its body lies in b, all else is copied.
func decode(b []byte) (m message, err error) {
	if len(b) < headSize || len(b) > maxMessage {
		return m, errMalformed
	}
	m.kind, m.id = kind(b[0]), binary.BigEndian.Uint64(b[1:])
	r := reader{rest: b[headSize:]}
	switch m.kind {
	case kindOpenStream, kindOpenDatagrams:
		r.open(&m.open)
		m.open.Network = "tcp"
		if m.kind == kindOpenDatagrams {
			m.open.Network = "udp"
		}
	case kindQuery:
		m.open.Via = r.string(maxClient)
		m.body = r.body()
	case kindFin, kindClose:
	case kindAbort:
		m.code = tunnel.Code(r.uint32())
	case kindOpened:
		m.by = r.identity()
		m.limit = r.uint32()
	case kindAnswer:
		m.by = r.identity()
		m.body = r.body()
	case kindFailed, kindEnd:
		m.code = tunnel.Code(r.uint32())
		m.text = r.string(tunnel.MaxText)
	default:
		return m, errMalformed
	}
	if r.bad || len(r.rest) > 0 {
		return m, errMalformed
	}
	return m, nil
}

// reader takes fields off a message; the first that is not there spoils it.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.rest) < n {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) string(most int) string {
	b := r.take(2)
	if b == nil {
		return ""
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > most {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

func (r *reader) identity() tunnel.Identity {
	space := r.string(maxClient)
	return tunnel.Identity{Space: space, Client: r.string(maxClient)}
}

// body is all that is left: a DNS message.
func (r *reader) body() []byte {
	b := r.rest
	r.rest = nil
	r.bad = r.bad || len(b) > maxQuery
	return b
}

func (r *reader) open(o *tunnel.Open) {
	o.Flow = r.string(maxFlow)
	o.Via = r.string(maxClient)
	var addr netip.AddrPort
	if addr.UnmarshalBinary([]byte(r.string(maxName))) != nil || !addr.IsValid() || addr.Addr().Zone() != "" {
		r.bad = true
		return
	}
	o.Addr = addr
	count := r.take(1)
	if count == nil || count[0] > tunnel.MaxNames {
		r.bad = true
		return
	}
	for range count[0] {
		o.Names = append(o.Names, r.string(maxName))
	}
}
