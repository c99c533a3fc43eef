package sniff

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// quicVersion is what differs between the known versions of QUIC as far as an Initial packet shows it.
type quicVersion struct {
	salt  string  // for the Initial secret
	label string  // prefix of the key labels
	types [4]byte // packet types by the two type bits
}

// Packet types with a long header, RFC 9000 section 17.2.
const (
	typeInitial byte = iota
	type0RTT
	typeHandshake
	typeRetry
)

const (
	quicV1      = 0x00000001
	quicV2      = 0x6b3343cf
	quicDraft29 = 0xff00001d
)

// quicVersionOf returns the parameters of a version: RFC 9001 section 5.2, RFC 9369 section 3,
// draft-ietf-quic-tls-29 section 5.2.
func quicVersionOf(v uint32) (quicVersion, bool) {
	order := [4]byte{typeInitial, type0RTT, typeHandshake, typeRetry}
	switch v {
	case quicV1:
		return quicVersion{"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a", "quic ", order}, true
	case quicDraft29:
		return quicVersion{"\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99", "quic ", order}, true
	case quicV2:
		order = [4]byte{typeRetry, typeInitial, type0RTT, typeHandshake}
		return quicVersion{"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9", "quicv2 ", order}, true
	}
	return quicVersion{}, false
}

// initialKeys opens the client's Initial packets of one connection.
type initialKeys struct {
	aead cipher.AEAD
	iv   []byte
	hp   cipher.Block
}

// deriveInitial derives the client's Initial keys from the destination connection ID of its first Initial packet
// (RFC 9001 section 5.2). The salts are public: any observer can do this.
func deriveInitial(v quicVersion, dcid []byte) (*initialKeys, error) {
	secret, err := hkdf.Extract(sha256.New, dcid, []byte(v.salt))
	if err != nil {
		return nil, fmt.Errorf("derive initial secret: %w", err)
	}
	client, err := expandLabel(secret, "client in", sha256.Size)
	if err != nil {
		return nil, err
	}
	var keys [3][]byte
	for i, k := range [...]struct {
		label string
		size  int
	}{{"key", 16}, {"iv", 12}, {"hp", 16}} {
		if keys[i], err = expandLabel(client, v.label+k.label, k.size); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(keys[0])
	if err != nil {
		return nil, fmt.Errorf("derive initial key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive initial key: %w", err)
	}
	hp, err := aes.NewCipher(keys[2])
	if err != nil {
		return nil, fmt.Errorf("derive header protection key: %w", err)
	}
	return &initialKeys{aead: aead, iv: keys[1], hp: hp}, nil
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func expandLabel(secret []byte, label string, size int) ([]byte, error) {
	full := "tls13 " + label
	info := string([]byte{byte(size >> 8), byte(size), byte(len(full))}) + full + "\x00"
	out, err := hkdf.Expand(sha256.New, secret, info, size)
	if err != nil {
		return nil, fmt.Errorf("derive %q: %w", label, err)
	}
	return out, nil
}

// open takes header protection and encryption off an Initial packet (RFC 9001 sections 5.3 and 5.4). largest is the
// largest packet number opened so far, -1 before the first. It returns the first octet of the header as it was, the
// packet number and the frames; ok is false when the keys do not fit. The packet is not changed.
func (k *initialKeys) open(p longPacket, largest int64) (first byte, number int64, frames []byte, ok bool) {
	const sampleAt, sampleSize = 4, aes.BlockSize
	if len(p.raw) < p.number+sampleAt+sampleSize {
		return 0, 0, nil, false
	}
	var mask [aes.BlockSize]byte
	k.hp.Encrypt(mask[:], p.raw[p.number+sampleAt:p.number+sampleAt+sampleSize])
	first = p.raw[0] ^ mask[0]&0x0f
	size := int(first&3) + 1
	header := append([]byte(nil), p.raw[:p.number+size]...)
	header[0] = first
	truncated := int64(0)
	for i := range size {
		header[p.number+i] ^= mask[1+i]
		truncated = truncated<<8 | int64(header[p.number+i])
	}
	number = packetNumber(truncated, uint(size)*8, largest)
	nonce := append([]byte(nil), k.iv...)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(number >> (8 * i))
	}
	frames, err := k.aead.Open(nil, nonce, p.raw[len(header):], header)
	return first, number, frames, err == nil
}

// packetNumber completes a truncated packet number (RFC 9000 appendix A.3).
func packetNumber(truncated int64, bits uint, largest int64) int64 {
	expected, window := largest+1, int64(1)<<bits
	n := expected&^(window-1) | truncated
	switch {
	case n <= expected-window/2 && n < 1<<62-window:
		return n + window
	case n > expected+window/2 && n >= window:
		return n - window
	}
	return n
}
