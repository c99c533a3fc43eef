package sniff

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// initial is a client's Initial packet to be sealed. Its keys come from keyID, or from dcid if that is empty.
type initial struct {
	version uint32 // 0: version 1
	dcid    string
	keyID   string
	token   string
	number  int64
	octets  int // of the packet number, 0: 4
	first   byte
	frames  string
	pad     int // frames are padded to this length
}

// varint is a QUIC variable-length integer.
func varint(n uint64) string {
	var b [8]byte
	switch {
	case n < 1<<6:
		return string([]byte{byte(n)})
	case n < 1<<14:
		binary.BigEndian.PutUint16(b[:], uint16(n)|0x4000)
		return string(b[:2])
	case n < 1<<30:
		binary.BigEndian.PutUint32(b[:], uint32(n)|0x80000000)
		return string(b[:4])
	}
	binary.BigEndian.PutUint64(b[:], n|0xc000000000000000)
	return string(b[:])
}

// crypto is a CRYPTO frame with a part of a stream.
func crypto(stream string, from, to int) string {
	return "\x06" + varint(uint64(from)) + varint(uint64(to-from)) + stream[from:to]
}

func (p initial) seal(t testing.TB) string {
	t.Helper()
	if p.version == 0 {
		p.version = quicV1
	}
	if p.octets == 0 {
		p.octets = 4
	}
	if p.keyID == "" {
		p.keyID = p.dcid
	}
	v, _ := quicVersionOf(p.version)
	kind := byte(0)
	if p.version == quicV2 {
		kind = 1
	}
	if n := p.pad - len(p.frames); n > 0 {
		p.frames += strings.Repeat("\x00", n)
	}
	keys, err := deriveInitial(v, []byte(p.keyID))
	if err != nil {
		t.Fatal(err)
	}
	var version [4]byte
	binary.BigEndian.PutUint32(version[:], p.version)
	first := p.first ^ (0xc0 | kind<<4 | byte(p.octets-1))
	header := string([]byte{first}) + string(version[:]) + u8(p.dcid) + u8("scid") + varint(uint64(len(p.token))) + p.token +
		varint(uint64(p.octets+len(p.frames)+16))
	at := len(header)
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(p.number))
	header += string(number[8-p.octets:])
	nonce := []byte(string(keys.iv))
	for i := range 8 {
		nonce[4+i] ^= number[i]
	}
	packet := keys.aead.Seal([]byte(header), nonce, []byte(p.frames), []byte(header))
	var mask [16]byte
	keys.hp.Encrypt(mask[:], packet[at+4:at+20])
	packet[0] ^= mask[0] & 0x0f
	for i := range p.octets {
		packet[at+i] ^= mask[1+i]
	}
	return string(packet)
}

// feedDatagrams gives datagrams to a QUIC and returns its last answer.
func feedDatagrams(datagrams ...string) (Hint, Status) {
	var q QUIC
	hint, status := Hint{}, More
	for _, d := range datagrams {
		hint, status = q.Feed([]byte(d))
	}
	return hint, status
}

// rfcPacket reads a packet of an RFC's appendix from testdata.
func rfcPacket(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	packet, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(packet)
}

// realInitials are the datagrams of a quic-go client until q is done with them.
func realInitials(t testing.TB, version quic.Version, config *tls.Config) []string {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = quic.DialAddr(ctx, server.LocalAddr().String(), config, &quic.Config{Versions: []quic.Version{version}})
	}()
	defer func() { cancel(); <-ended }()
	var datagrams []string
	var q QUIC
	_ = server.SetDeadline(time.Now().Add(time.Minute))
	for buf := make([]byte, 2048); ; {
		n, _, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		datagrams = append(datagrams, string(buf[:n]))
		if _, status := q.Feed(buf[:n]); status != More {
			return datagrams
		}
	}
}
