//go:build linux

package gauntlet

import (
	"encoding/binary"
	"net"
	"slices"
)

// vec8, vec16 and vec24 put the length before b.
func vec8(b ...byte) []byte { return append([]byte{byte(len(b))}, b...) }

func vec16(b ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func vec24(b ...byte) []byte {
	return append([]byte{byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// extension is one extension of a ClientHello.
func extension(kind uint16, data ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, kind), vec16(data...)...)
}

// serverName is the server_name extension with these names (RFC 6066 section 3), however many.
func serverName(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0), vec16([]byte(n)...)...)
	}
	return extension(0, vec16(list...)...)
}

// alpn is the extension that offers one protocol: a place for a token, which servers hear and need not understand.
func alpn(protocol string) []byte { return extension(16, vec16(vec8([]byte(protocol)...)...)...) }

// padding is n octets of extension that mean nothing (RFC 7685).
func padding(n int) []byte { return extension(21, make([]byte, n)...) }

// modern are the extensions without which no server goes on with TLS 1.3; without a key share it has to ask for one.
func modern() []byte {
	return slices.Concat(
		extension(43, 2, 3, 4), // supported_versions
		extension(13, vec16(4, 3, 8, 4)...),
		extension(10, vec16(0, 29, 0, 25)...), // supported_groups: X25519, P-521
		extension(51, vec16()...),             // key_share
	)
}

// clientHello is the handshake message of a ClientHello (RFC 8446 section 4.1.2).
func clientHello(extensions ...[]byte) []byte { return helloMessage(0x0303, nil, extensions...) }

// dtlsHello is the same for DTLS 1.2 (RFC 6347 section 4.2.1), without the header of its fragment.
func dtlsHello(extensions ...[]byte) []byte { return helloMessage(0xfefd, vec8(), extensions...)[4:] }

func helloMessage(version uint16, cookie []byte, extensions ...[]byte) []byte {
	body := slices.Concat(
		binary.BigEndian.AppendUint16(nil, version), make([]byte, 32), vec8(make([]byte, 32)...), cookie,
		vec16(0x13, 1, 0xc0, 0x2b), vec8(0), vec16(slices.Concat(extensions...)...),
	)
	return append([]byte{1}, vec24(body...)...)
}

// records puts handshake octets into TLS records of at most size octets.
func records(message []byte, size int) []byte {
	var b []byte
	for piece := range slices.Chunk(message, size) {
		b = append(append(b, 22, 3, 1), vec16(piece...)...)
	}
	return b
}

// oneRecord is the largest record there is.
const oneRecord = 1 << 14

// dtlsFragment is one DTLS record with the part of a hello from offset on.
func dtlsFragment(hello []byte, offset, length int, serial byte) []byte {
	total := []byte{byte(len(hello) >> 16), byte(len(hello) >> 8), byte(len(hello))}
	fragment := slices.Concat([]byte{1}, total, []byte{0, 0, 0, byte(offset >> 8), byte(offset)}, vec24(hello[offset:offset+length]...))
	return append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, serial}, vec16(fragment...)...)
}

// say sends raw octets and waits until the server has answered something or has hung up: it has heard them then.
func say(c net.Conn, raw []byte) error {
	if _, err := c.Write(raw); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 4096))
	return err
}

// cut writes in pieces of n octets, each a segment of its own.
type cut struct {
	net.Conn
	n int
}

func (c cut) Write(b []byte) (int, error) {
	sent := 0
	for piece := range slices.Chunk(b, c.n) {
		n, err := c.Conn.Write(piece)
		if sent += n; err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// recut spreads handshake records over records of n octets.
type recut struct {
	net.Conn
	n int
}

func (r recut) Write(b []byte) (int, error) {
	if len(b) < 5 || b[0] != 22 {
		return r.Conn.Write(b)
	}
	end := 5 + int(binary.BigEndian.Uint16(b[3:]))
	if _, err := r.Conn.Write(append(records(b[5:end], r.n), b[end:]...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
