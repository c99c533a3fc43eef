package sniff

import (
	"strings"
	"testing"
)

// dtls is a DTLS 1.2 record of epoch 0.
func dtls(fragments ...string) string {
	return "\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00" + u16(fragments...)
}

// fragment is the part of a ClientHello body that lies between two offsets, with its header.
func fragment(body string, from, to int) string {
	return "\x01" + u24(body)[:3] + "\x00\x00" + string([]byte{0, byte(from >> 8), byte(from)}) + u24(body[from:to])
}

func TestDatagram(t *testing.T) {
	body := func(extensions ...string) string {
		return "\xfe\xfd" + helloFixed[2:] + u8() + u8("cookie") + u16("\x13\x01") + u8("\x00") + u16(extensions...)
	}
	a := body(sni("a.example"))
	n := len(a)
	want := Hint{Protocol: "dtls", Host: "a.example", Source: "sni"}
	for _, c := range []struct {
		name   string
		in     string
		status Status
		hint   Hint
	}{
		{"DTLS 1.2", dtls(fragment(a, 0, n)), Done, want},
		{"DTLS 1.0 record", strings.Replace(dtls(fragment(a, 0, n)), "\xfe\xfd", "\xfe\xff", 1), Done, want},
		{"fragments in one record", dtls(fragment(a, 0, 20), fragment(a, 20, n)), Done, want},
		{"fragments in two records", dtls(fragment(a, 0, 20)) + dtls(fragment(a, 20, n)), Done, want},
		{"another record behind", dtls(fragment(a, 0, n)) + dtls("\x01"), Done, want},
		{"no server_name", dtls(fragment(body(), 0, len(body()))), Done, Hint{Protocol: "dtls"}},
		{"STUN", "\x00\x01\x00\x00\x21\x12\xa4\x420123456789ab", Done, Hint{Protocol: "stun"}},

		{"two names", dtls(fragment(body(sni("a.example", "b.example")), 0, len(body(sni("a.example", "b.example"))))), Done, bad("dtls", "two names in server_name")},
		{"half a hello", dtls(fragment(a, 0, 20)), Done, bad("dtls", "ClientHello goes on in another datagram")},
		{"gap", dtls(fragment(a, 0, 20), fragment(a, 21, n)), Done, bad("dtls", "bad fragment of a ClientHello")},
		{"first half missing", dtls(fragment(a, 20, n)), Done, bad("dtls", "bad fragment of a ClientHello")},
		{"truncated record", dtls(fragment(a, 0, n))[:60], Done, bad("dtls", "record is truncated")},

		{"ServerHello", dtls("\x02" + fragment(a, 0, n)[1:]), Unknown, Hint{}},
		{"later epoch", "\x16\xfe\xfd\x00\x01" + dtls(fragment(a, 0, n))[5:], Unknown, Hint{}},
		{"STUN of another length", "\x00\x01\x00\x04\x21\x12\xa4\x420123456789ab", Unknown, Hint{}},
		{"DNS", "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01", Unknown, Hint{}},
		{"empty", "", Unknown, Hint{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hint, status := Datagram([]byte(c.in))
			sameHint(t, "whole", hint, status, c.hint, c.status)
		})
	}
}

// TestDatagramCut says that a hello that is cut short gives no name.
func TestDatagramCut(t *testing.T) {
	body := "\xfe\xfd" + helloFixed[2:] + u8() + u8() + u16("\x13\x01") + u8("\x00") + u16(sni("a.example"))
	whole := dtls(fragment(body, 0, len(body)))
	for n := range len(whole) {
		if hint, _ := Datagram([]byte(whole[:n])); hint.Host != "" {
			t.Fatalf("the first %d octets claim %q", n, hint.Host)
		}
	}
}
