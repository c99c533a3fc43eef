package sniff

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/weir-dev/weir/internal/hostname"
)

// checkHint holds the laws of every hint.
func checkHint(t *testing.T, h Hint, status Status) {
	t.Helper()
	if h.Host != "" {
		if n, err := hostname.Normalize(h.Host); err != nil || n != h.Host {
			t.Fatalf("%q is not in normal form: %q, %v", h.Host, n, err)
		}
	}
	claims := h.Host != "" || h.HostIP.IsValid()
	switch {
	case h.Host != "" && h.HostIP.IsValid(), claims && h.Malformed != "", claims != (h.Source != ""):
		t.Fatalf("contradiction: %+v", h)
	case status != Done && (claims && !h.MayWait || h.Malformed != "" || h.Upgrade):
		t.Fatalf("%v with a claim: %+v", status, h)
	case h.MayWait && status != More, h.Upgrade != (h.Consumed > 0), len(h.ALPN) > MaxALPN, h.HostIP.Zone() != "":
		t.Fatalf("%v %+v", status, h)
	}
}

// checkContained says that a name stands in the input as it is, but for case.
func checkContained(t *testing.T, h Hint, in []byte) {
	t.Helper()
	if h.Host != "" && !bytes.Contains(bytes.ToLower(in), []byte(h.Host)) {
		t.Fatalf("%q is not in the input", h.Host)
	}
}

// FuzzStream holds that the answer does not depend on the cut, that memory is bounded and that no name is invented.
func FuzzStream(f *testing.F) {
	for _, s := range allSamples() {
		if len(s.in) < 4096 {
			f.Add([]byte(s.in), uint16(len(s.in)/2))
		}
	}
	f.Add(realHello(f, realConfig()), uint16(5))
	// A whole hello in a record that goes on: the claim may be judged, and is not final.
	f.Add([]byte("\x16\x03000\x01\x00\x00D0000000000000000000000000000000000\a0000000\x00\x0200\x010\x00\x12\x00\x00\x00\x0e\x00\f\x00\x00\t0A0000000"), uint16(41))
	for _, flow := range corpusFlows(f, layers.IPProtocolTCP) {
		if in, _, ok := opening(flow.stream); ok && len(in) < 4096 {
			f.Add([]byte(in), uint16(len(in)/3))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		hint, status := feed(string(in))
		checkHint(t, hint, status)
		if hint.Protocol == ProtocolHTTP {
			checkContained(t, hint, in)
		}
		at := int(cut) % (len(in) + 1)
		again, statusAgain := feed(string(in), at)
		sameHint(t, "cut", again, statusAgain, hint, status)
		var s Stream
		for i := range min(len(in), 4096) {
			again, statusAgain = s.Feed(in[i : i+1])
			if s.Buffered() > MaxStream {
				t.Fatalf("%d octets kept", s.Buffered())
			}
		}
		if len(in) <= 4096 {
			sameHint(t, "single octets", again, statusAgain, hint, status)
		}
	})
}

// FuzzClientHello holds that a hello gives the same answer over TCP, in records of any size, and over QUIC.
func FuzzClientHello(f *testing.F) {
	for _, s := range tlsSamples() {
		if len(s.in) > recordHeader && len(s.in) < 2048 {
			f.Add([]byte(s.in[recordHeader:]), uint16(7))
		}
	}
	f.Add(realHello(f, realConfig())[recordHeader:], uint16(1))
	f.Fuzz(func(t *testing.T, msg []byte, size uint16) {
		if len(msg) < 1 || len(msg) > 8192 || msg[0] != typeClientHello {
			return
		}
		n := int(size)%len(msg) + 1
		if n < 20 && len(msg) > 4096 {
			n = 20
		}
		hint, status := feed(record(string(msg)))
		checkHint(t, hint, status)
		checkContained(t, hint, msg)
		if len(msg) > handshakeHeader && len(msg) > helloLen(msg) && msg[helloLen(msg)] == typeClientHello {
			return // another hello: malformed in this record, the business of a Watch in one of its own
		}
		again, statusAgain := feed(records(string(msg), n))
		sameHint(t, "records", again, statusAgain, hint, status)

		overQUIC := initial{dcid: dcid, frames: crypto(string(msg), n/2, len(msg)) + crypto(string(msg), 0, n/2)}.seal(t)
		again, statusAgain = feedDatagrams(overQUIC)
		if again.Source == SourceQUICSNI {
			again.Source = SourceSNI
		}
		again.Protocol = ProtocolTLS
		if status == Done && statusAgain == Done && hint.Malformed == "" && again.Malformed == "" || status == More {
			sameHint(t, "quic", again, statusAgain, hint, status)
		}
	})
}

// FuzzHTTP holds the same for heads with a Host, and that a second Host line is never overlooked.
func FuzzHTTP(f *testing.F) {
	for _, s := range httpSamples() {
		if len(s.in) < 2048 {
			f.Add([]byte(s.in))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		hint, status := feed(string(in))
		checkHint(t, hint, status)
		if hint.Source != SourceHTTPHost || hint.Protocol == ProtocolH2C || bytes.HasPrefix(in, []byte(h2Preface)) {
			return
		}
		checkContained(t, hint, in)
		head, _, _ := bytes.Cut(bytes.TrimLeft(in, "\r\n"), []byte("\r\n\r\n"))
		lines := strings.Split(string(head), "\r\n")
		hosts := 0
		for _, l := range lines[1:] {
			if len(l) >= 5 && strings.EqualFold(l[:5], "host:") {
				hosts++
			}
		}
		if hosts > 1 || bytes.Contains(bytes.ReplaceAll(head, []byte("\r\n"), nil), []byte("\n")) {
			t.Fatalf("a claim from an ambiguous head: %+v", hint)
		}
		with := lines[0] + "\r\nHost: other.example\r\nHost: other.example\r\n" + strings.Join(lines[1:], "\r\n") + "\r\n\r\n"
		if again, _ := feed(with); again.Malformed == "" {
			t.Fatalf("two Host lines pass: %+v", again)
		}
	})
}

// FuzzQUIC feeds raw datagrams, and frames that are sealed first so that they get past the AEAD. It holds that memory is
// bounded and that an answer stays.
func FuzzQUIC(f *testing.F) {
	msg := hello(sni("a.example"))
	f.Add([]byte(rfcPacket(f, "rfc9001-a2.hex")), false, uint16(1200))
	f.Add([]byte(rfcPacket(f, "rfc9369-a2.hex")), false, uint16(600))
	f.Add([]byte(crypto(msg, 40, len(msg))+"\x01\x00"+crypto(msg, 0, 40)), true, uint16(30))
	f.Add([]byte("\x02\x05\x00\x01\x01\x01\x01\x1c\x00\x00\x01x"), true, uint16(5))
	f.Fuzz(func(t *testing.T, in []byte, sealed bool, cut uint16) {
		at := int(cut) % (len(in) + 1)
		parts := []string{string(in[:at]), string(in[at:])}
		if sealed {
			for i, p := range parts {
				if len(p) > 16000 {
					return
				}
				parts[i] = initial{dcid: dcid, number: int64(i), frames: p, pad: 32}.seal(t)
			}
		}
		var q QUIC
		for _, p := range append(parts, parts...) {
			before := strings.Clone(p)
			hint, status := q.Feed([]byte(p))
			checkHint(t, hint, status)
			next, nextStatus, _ := q.Next([]byte(p))
			checkHint(t, next, nextStatus)
			if p != before {
				t.Fatal("the datagram was changed")
			}
			if status != More {
				again, statusAgain := q.Feed([]byte("x"))
				sameHint(t, "again", again, statusAgain, hint, status)
			}
			for _, a := range q.attempts {
				if len(a.crypto.data) > MaxCrypto || len(q.attempts) > maxAttempts {
					t.Fatal("too much is kept")
				}
			}
		}
		IsInitial(in)
	})
}

// FuzzInitialSet carries a hello over QUIC in any frames, packets, datagrams and order that a plan says, three bytes for
// each frame: where it begins, how long it is, and whether it ends its packet or its datagram. What comes out is what the
// hello says over TCP, or nothing yet.
func FuzzInitialSet(f *testing.F) {
	whole := []byte{0, 255, 3, 100, 255, 3}
	for _, plan := range [][]byte{whole, {50, 255, 1, 0, 50, 3}, {0, 20, 0, 40, 255, 0, 20, 20, 3}, {0, 60, 3, 0, 60, 3, 30, 255, 2}, {0, 10, 7, 10, 255, 7}} {
		f.Add([]byte(hello(sni("a.example"), alpn("h3"))), plan)
	}
	f.Add(realHello(f, realConfig())[recordHeader:], whole)
	for _, flow := range corpusFlows(f, layers.IPProtocolTCP) {
		in, _, _ := opening(flow.stream)
		if msg, ok := handshakeOf(in); ok {
			f.Add([]byte(msg), whole)
		}
	}
	f.Fuzz(func(t *testing.T, msg, plan []byte) {
		if len(msg) < 4 || len(msg) > 8192 || msg[0] != typeClientHello || len(plan) > 90 {
			return
		}
		want, wantStatus := feed(record(string(msg)))
		var q QUIC
		datagram, frames, number := "", "", int64(0)
		for ; len(plan) >= 3; plan = plan[3:] {
			from := int(plan[0]) * len(msg) / 256
			frames += crypto(string(msg), from, min(len(msg), from+1+int(plan[1])*len(msg)/256))
			if plan[2]&4 != 0 {
				frames = "\x01\x00" + frames // PING and PADDING first
			}
			if plan[2]&1 != 0 && len(frames) < 16000 {
				number += 1 + int64(plan[2]>>4)
				datagram += initial{dcid: dcid, number: number, frames: frames, pad: 40}.seal(t)
				frames = ""
			}
			if plan[2]&2 == 0 || datagram == "" {
				continue
			}
			hint, status := q.Feed([]byte(datagram))
			checkHint(t, hint, status)
			if status == Done && (hint.Malformed == "") && (hint.Host != want.Host || hint.HostIP != want.HostIP || want.Malformed != "" || wantStatus != Done) {
				t.Fatalf("over QUIC %+v, over TCP %v %+v", hint, wantStatus, want)
			}
			datagram = ""
		}
	})
}

// FuzzDatagram holds the laws of a hint, and that a name stands in the datagram (fragments may cut it).
func FuzzDatagram(f *testing.F) {
	body := "\xfe\xfd" + helloFixed[2:] + u8() + u8("c") + u16("\x13\x01") + u8("\x00") + u16(sni("a.example"))
	f.Add([]byte(dtls(fragment(body, 0, len(body)))))
	f.Add([]byte(dtls(fragment(body, 0, 50), fragment(body, 50, len(body)))))
	f.Add([]byte("\x00\x01\x00\x00\x21\x12\xa4\x420123456789ab"))
	f.Fuzz(func(t *testing.T, in []byte) {
		hint, status := Datagram(in)
		checkHint(t, hint, status)
		if status == More {
			t.Fatal("More")
		}
		if len(in) > dtlsRecord+1 && hint.Host != "" && binary.BigEndian.Uint16(in[dtlsRecord+2:]) == binary.BigEndian.Uint16(in[dtlsRecord+10:]) {
			checkContained(t, hint, in)
		}
	})
}

// FuzzWatch holds that what a Watch finds does not depend on the cut, and that it keeps little.
func FuzzWatch(f *testing.F) {
	a := record(hello(sni("a.example")))
	for _, s := range []string{"EHLO x\r\nSTARTTLS\r\n" + a, "\x14\x03\x03\x00\x01\x01" + a, records(hello(sni("a.example")), 3), "\x16\x03\x01\x16\x03", a + "x"} {
		f.Add([]byte(s), uint16(10))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) > 8192 {
			return
		}
		one, last := watched(string(in))
		for _, h := range one {
			checkHint(t, h, Done)
		}
		single, _ := watched(octets(string(in))...)
		at := int(cut) % (len(in) + 1)
		two, _ := watched(string(in[:at]), string(in[at:]))
		if !reflect.DeepEqual(two, single) && len(single) < 2 {
			t.Fatalf("cut at %d: %+v, in single octets %+v", at, two, single)
		}
		if len(single) < 2 && !reflect.DeepEqual(one, single) {
			t.Fatalf("whole: %+v %v, in single octets %+v", one, last, single)
		}
		var w Watch
		for i := range in {
			w.Feed(in[i : i+1])
			kept := len(w.tail)
			if w.hello != nil {
				kept += w.hello.buffered()
			} else if kept > 64 {
				t.Fatalf("%d octets kept", kept)
			}
			if kept > MaxStream {
				t.Fatalf("%d octets kept", kept)
			}
		}
	})
}

// TestClaimAuthority holds what an authority may look like, on its own.
func TestClaimAuthority(t *testing.T) {
	for in, want := range map[string]claim{
		"a.example":         {host: "a.example"},
		"a.example:":        {host: "a.example"},
		"A.example.:0443":   {host: "a.example", port: 443},
		"192.0.2.1:1":       {ip: netip.MustParseAddr("192.0.2.1"), port: 1},
		"[2001:DB8::1]":     {ip: netip.MustParseAddr("2001:db8::1")},
		"[::ffff:1.2.3.4]:": {ip: netip.MustParseAddr("::ffff:1.2.3.4")},
	} {
		if got, bad := claimAuthority(in); bad != "" || got != want {
			t.Errorf("claimAuthority(%q) = %+v, %q", in, got, bad)
		}
	}
	for _, in := range []string{"", ":80", "[", "[]", "[::1", "::1", "a:b:1", "a:-1", "a:+1", "a:123456", "[::1]80", "[fe80::1%25lo]", "[v1.x]", "a/b", "a%2eb", "1.2.3"} {
		if got, bad := claimAuthority(in); bad == "" {
			t.Errorf("claimAuthority(%q) = %+v", in, got)
		}
	}
}
