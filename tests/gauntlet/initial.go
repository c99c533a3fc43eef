//go:build linux

package gauntlet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"slices"
	"time"
)

// initial is a QUIC Initial packet as a client sends it (RFC 9000 section 17.2.2). The retry token stands in clear text:
// a place for what a server is to hear.
type initial struct {
	version uint32 // 0 is version 1
	dcid    string
	token   string
	number  uint32
	frames  []byte
	short   bool // do not fill the datagram
}

// saltV1 is the salt of RFC 9001 section 5.2.
var saltV1 = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}

// packet seals it (RFC 9001 section 5).
func (i initial) packet() []byte {
	prk, _ := hkdf.Extract(sha256.New, []byte(i.dcid), saltV1)
	secret := expandLabel(prk, "client in", 32)
	block, _ := aes.NewCipher(expandLabel(secret, "quic key", 16))
	aead, _ := cipher.NewGCM(block)
	nonce := expandLabel(secret, "quic iv", 12)
	for k, b := range binary.BigEndian.AppendUint32(nil, i.number) {
		nonce[8+k] ^= b
	}
	frames := i.frames
	if pad := 1150 - len(frames); pad > 0 && !i.short {
		frames = append(slices.Clone(frames), make([]byte, pad)...)
	}
	header := slices.Concat(
		[]byte{0xc3}, binary.BigEndian.AppendUint32(nil, max(i.version, 1)), vec8([]byte(i.dcid)...), vec8(), vec8([]byte(i.token)...),
		binary.BigEndian.AppendUint16(nil, uint16(0x4000|4+len(frames)+aead.Overhead())), binary.BigEndian.AppendUint32(nil, i.number),
	)
	packet := append(slices.Clone(header), aead.Seal(nil, nonce, frames, header)...)
	number := len(header) - 4
	mask := make([]byte, 16)
	protection, _ := aes.NewCipher(expandLabel(secret, "quic hp", 16))
	protection.Encrypt(mask, packet[number+4:number+20])
	packet[0] ^= mask[0] & 0x0f
	for k := range 4 {
		packet[number+k] ^= mask[1+k]
	}
	return packet
}

// expandLabel is HKDF-Expand-Label of RFC 8446 section 7.1 without a context.
func expandLabel(secret []byte, label string, n int) []byte {
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), vec8([]byte("tls13 "+label)...)...)
	out, _ := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	return out
}

// crypto is a CRYPTO frame (RFC 9000 section 19.6).
func crypto(offset int, data []byte) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{6}, uint16(0x4000|offset))
	return append(binary.BigEndian.AppendUint16(frame, uint16(0x4000|len(data))), data...)
}

// quicHello is a ClientHello for the CRYPTO stream.
func quicHello(name string) []byte {
	return clientHello(serverName(name), modern(), alpn("gauntlet"), extension(0x39)) // no transport parameter is needed to read it
}

// sayDatagrams sends them from one socket, and waits a moment for an answer or a refusal.
func (a *Attacker) sayDatagrams(address string, wait time.Duration, datagrams ...[]byte) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, d := range datagrams {
		if _, err := c.Write(d); err != nil {
			return err
		}
	}
	c.SetReadDeadline(time.Now().Add(wait))
	_, err = c.Read(make([]byte, 2048))
	return err
}

// moment is how long a datagram may take to do harm.
const moment = 300 * time.Millisecond
