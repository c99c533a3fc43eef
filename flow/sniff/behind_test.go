package sniff

import (
	"strings"
	"testing"
)

// TestBehind says what is left for a Watch: every octet that the claim was not read from.
func TestBehind(t *testing.T) {
	a := record(hello(sni("a.example")))
	for _, c := range []struct{ name, read, behind string }{
		{"hello", a, ""},
		{"hello, then another", a, a},
		{"hello, then part of a record", a, "\x17"},
		{"records of one octet", records(hello(sni("a.example")), 1), a},
		{"head", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", a},
		{"SSLRequest", "\x00\x00\x00\x08\x04\xd2\x16\x2f", a},
		{"SSH", "", "SSH-2.0-x\r\n" + a},
		{"SOCKS", "", "\x05\x01\x00" + a},
		{"more than is looked at", a, strings.Repeat("x", MaxStream)},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := c.read + c.behind
			var whole Stream
			if _, status := whole.Feed([]byte(in)); status != Done || whole.Behind() != len(c.behind) {
				t.Fatalf("in one piece: %v, %d octets behind; want %d", status, whole.Behind(), len(c.behind))
			}
			for i := 1; i <= len(c.read); i++ {
				var s Stream
				status := More
				at := 0
				for _, piece := range []string{in[:i], in[i:]} {
					if status == More && piece != "" {
						_, status = s.Feed([]byte(piece))
						at += len(piece)
					}
				}
				if status != Done || at-s.Behind() != len(c.read) {
					t.Fatalf("cut at %d: %v, read to %d; want %d", i, status, at-s.Behind(), len(c.read))
				}
			}
		})
	}
}

// TestHelloInRecordThatGoesOn: the claim may be judged, and what the record still brings is read.
func TestHelloInRecordThatGoesOn(t *testing.T) {
	first := hello(sni("a.example"))
	in := record(first + hello(sni("b.example")))
	var s Stream
	hint, status := s.Feed([]byte(in[:recordHeader+len(first)]))
	if status != More || !hint.MayWait || hint.Host != "a.example" {
		t.Fatalf("whole hello, record goes on: %v %+v", status, hint)
	}
	if hint, status = s.Feed([]byte(in[recordHeader+len(first):][:1])); status != Done || hint.Malformed == "" {
		t.Fatalf("another hello in the record: %v %+v", status, hint)
	}
}

// TestQUICHellosInOnePacket: the second is read with the first.
func TestQUICHellosInOnePacket(t *testing.T) {
	msg, other := hello(sni("a.example")), hello(sni("b.example"))
	for _, c := range []struct {
		name, second string
		want         Hint
	}{
		{"another name", other, bad("quic", "second ClientHello with another name")},
		{"the same name", msg, quicHint("a.example")},
		{"another message", "\x14\x00\x00\x00", bad("quic", "handshake does not begin with a ClientHello")},
	} {
		t.Run(c.name, func(t *testing.T) {
			both := msg + c.second
			hint, status := feedDatagrams(initial{dcid: dcid, frames: crypto(both, 0, len(both)), pad: 64}.seal(t))
			sameHint(t, c.name, hint, status, c.want, Done)
		})
	}
}
