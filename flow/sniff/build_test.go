package sniff

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"reflect"
	"testing"
	"time"
)

// u8, u16 and u24 put a length in front of the parts.
func u8(parts ...string) string  { return vec(1, parts) }
func u16(parts ...string) string { return vec(2, parts) }
func u24(parts ...string) string { return vec(3, parts) }

func vec(octets int, parts []string) string {
	body := cat(parts...)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(body)))
	return string(n[8-octets:]) + body
}

func cat(parts ...string) string {
	all := ""
	for _, p := range parts {
		all += p
	}
	return all
}

func ext(typ uint16, data string) string {
	return string([]byte{byte(typ >> 8), byte(typ)}) + u16(data)
}

// sni is a server_name extension with the names as its list.
func sni(names ...string) string {
	list := ""
	for _, n := range names {
		list += "\x00" + u16(n)
	}
	return ext(extServerName, u16(list))
}

func alpn(protocols ...string) string {
	list := ""
	for _, p := range protocols {
		list += u8(p)
	}
	return ext(extALPN, u16(list))
}

const helloFixed = "\x03\x03" + "0123456789abcdef0123456789abcdef"

// hello is a ClientHello with its handshake header, strictly as RFC 8446 wants it but for its extensions.
func hello(extensions ...string) string {
	return "\x01" + u24(helloFixed, u8("session"), u16("\x13\x01"), u8("\x00"), u16(extensions...))
}

func record(handshake string) string { return "\x16\x03\x01" + u16(handshake) }

// records cuts a handshake message into records of n octets.
func records(handshake string, n int) string {
	all := ""
	for len(handshake) > n {
		all += record(handshake[:n])
		handshake = handshake[n:]
	}
	return all + record(handshake)
}

// realHello is the first flight of a crypto/tls client.
func realHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, config).Handshake()
		client.Close()
	}()
	_ = server.SetDeadline(time.Now().Add(time.Minute))
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// echConfigs is an ECHConfigList (RFC 9849 section 4) with a fresh key.
func echConfigs(t testing.TB, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyConfig := "\x07" + "\x00\x20" + u16(string(key.PublicKey().Bytes())) + u16("\x00\x01\x00\x01")
	return []byte(u16("\xfe\x0d" + u16(keyConfig, "\x00", u8(public), "\x00\x00")))
}

// feed gives the stream cut at the positions to a Stream and returns its last answer.
func feed(b string, cuts ...int) (Hint, Status) {
	var s Stream
	hint, status := Hint{}, More
	from := 0
	for _, cut := range append(cuts, len(b)) {
		hint, status = s.Feed([]byte(b[from:cut]))
		from = cut
	}
	return hint, status
}

// feedBytes gives a Stream single bytes.
func feedBytes(b string) (Hint, Status) {
	var s Stream
	hint, status := Hint{}, More
	for i := range len(b) {
		hint, status = s.Feed([]byte(b[i : i+1]))
	}
	return hint, status
}

func sameHint(t *testing.T, what string, got Hint, gotStatus Status, want Hint, wantStatus Status) {
	t.Helper()
	if gotStatus != wantStatus || !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %v %+v\nwant %v %+v", what, gotStatus, got, wantStatus, want)
	}
}
