package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
)

func quicHint(host string) Hint {
	return Hint{Protocol: "quic", Host: host, Source: "quic-sni"}
}

const dcid = "\x83\x94\xc8\xf0\x3e\x51\x57\x08"

// TestRFCVectors opens the client Initials of RFC 9001 appendix A.2 and RFC 9369 appendix A.2.
func TestRFCVectors(t *testing.T) {
	want := quicHint("example.com")
	want.ALPN = []string{"alpn"}
	for _, file := range []string{"rfc9001-a2.hex", "rfc9369-a2.hex"} {
		t.Run(file, func(t *testing.T) {
			packet := rfcPacket(t, file)
			before := packet
			hint, status := feedDatagrams(packet)
			sameHint(t, "datagram", hint, status, want, Done)
			if packet != before {
				t.Fatal("the datagram was changed")
			}
			if id, ok := IsInitial([]byte(packet)); !ok || string(id) != dcid {
				t.Fatalf("IsInitial = %x, %v", id, ok)
			}
		})
	}
}

// TestInitialKeys compares keys with RFC 9001 appendix A.1 and RFC 9369 appendix A.1.
func TestInitialKeys(t *testing.T) {
	for version, want := range map[uint32]string{quicV1: "fa044b2f42a3fd3b46fb255c", quicV2: "91f73e2351d8fa91660e909f"} {
		v, _ := quicVersionOf(version)
		keys, err := deriveInitial(v, []byte(dcid))
		if err != nil || hex.EncodeToString(keys.iv) != want {
			t.Errorf("version %#x: iv %x, %v; want %s", version, keys.iv, err, want)
		}
	}
}

// TestPacketNumber is RFC 9000 appendix A.3 and its neighbourhood.
func TestPacketNumber(t *testing.T) {
	for _, c := range []struct {
		truncated int64
		bits      uint
		largest   int64
		want      int64
	}{
		{0x9b32, 16, 0xa82f30ea, 0xa82f9b32},
		{0, 8, -1, 0}, {200, 8, -1, 200}, {0, 8, 255, 256}, {255, 8, 256, 255}, {0x12345678, 32, -1, 0x12345678}, {1, 8, 0x1fe, 0x201},
	} {
		if got := packetNumber(c.truncated, c.bits, c.largest); got != c.want {
			t.Errorf("packetNumber(%#x, %d, %#x) = %#x, want %#x", c.truncated, c.bits, c.largest, got, c.want)
		}
	}
}

// TestQUIC is the table of what datagrams claim.
func TestQUIC(t *testing.T) {
	msg := hello(sni("a.example"), alpn("h3"))
	n := len(msg)
	want := quicHint("a.example")
	want.ALPN = []string{"h3"}
	other := hello(sni("b.example"), alpn("h3"))
	pkt := func(p initial, frames ...string) string {
		p.frames = cat(frames...)
		p.pad = max(p.pad, 64)
		if p.dcid == "" {
			p.dcid = dcid
		}
		return p.seal(t)
	}
	all := crypto(msg, 0, n)
	zeroRTT := "\xd3\x00\x00\x00\x01\x08" + dcid + "\x00\x20" + strings.Repeat("z", 32)
	handshake := "\xe3\x00\x00\x00\x01\x08" + dcid + "\x00\x20" + strings.Repeat("h", 32)
	unknown := "\xc3\x1a\x2a\x3a\x4a\x08" + dcid + "\x00" + strings.Repeat("?", 1200)
	ack := "\x02\x05\x00\x01\x01\x01\x01"
	q := Hint{Protocol: "quic"}
	more := Hint{Protocol: "quic"}
	for _, c := range []struct {
		name      string
		datagrams []string
		status    Status
		hint      Hint
	}{
		{"one datagram", []string{pkt(initial{}, all)}, Done, want},
		{"version 2", []string{pkt(initial{version: quicV2}, all)}, Done, want},
		{"draft 29", []string{pkt(initial{version: quicDraft29}, all)}, Done, want},
		{"fixed bit greased", []string{pkt(initial{first: 0x40}, all)}, Done, want},
		{"token", []string{pkt(initial{token: "token"}, all)}, Done, want},
		{"long token", []string{pkt(initial{token: strings.Repeat("t", 300)}, all)}, Done, want},
		{"packet number 200 in one octet", []string{pkt(initial{number: 200, octets: 1}, all)}, Done, want},
		{"packet number 70000 in three octets", []string{pkt(initial{number: 70000, octets: 3}, all)}, Done, want},
		{"connection ID of 20 octets", []string{pkt(initial{dcid: strings.Repeat("d", 20)}, all)}, Done, want},
		{"frames before and behind", []string{pkt(initial{}, "\x00\x00\x01", ack, all, "\x03\x05\x00\x00\x01\x01\x02\x03\x01")}, Done, want},
		{"shuffled in one packet", []string{pkt(initial{}, crypto(msg, 40, n), "\x01", crypto(msg, 9, 40), "\x00\x00", crypto(msg, 0, 9))}, Done, want},
		{"overlap that agrees", []string{pkt(initial{}, crypto(msg, 0, 50), crypto(msg, 20, n), crypto(msg, 0, n))}, Done, want},
		{"two datagrams", []string{pkt(initial{}, crypto(msg, 0, 30)), pkt(initial{number: 1}, crypto(msg, 30, n))}, Done, want},
		{"two datagrams, swapped", []string{pkt(initial{number: 1}, crypto(msg, 30, n)), pkt(initial{}, crypto(msg, 0, 30))}, Done, want},
		{"the same datagram twice", []string{pkt(initial{}, crypto(msg, 0, 30)), pkt(initial{}, crypto(msg, 0, 30)), pkt(initial{number: 1}, crypto(msg, 30, n))}, Done, want},
		{"coalesced Initials", []string{pkt(initial{}, crypto(msg, 30, n)) + pkt(initial{number: 1}, crypto(msg, 0, 30))}, Done, want},
		{"0-RTT behind", []string{pkt(initial{}, all) + zeroRTT}, Done, want},
		{"0-RTT before", []string{zeroRTT + pkt(initial{}, all)}, Done, want},
		{"0-RTT datagram first", []string{zeroRTT, pkt(initial{}, all)}, Done, want},
		{"PING only, then the hello", []string{pkt(initial{}, "\x01"), pkt(initial{number: 1}, all)}, Done, want},
		{"padding behind the packet", []string{pkt(initial{}, all) + strings.Repeat("\x00", 500)}, Done, want},
		{"Retry", []string{pkt(initial{}, crypto(msg, 0, 30)), pkt(initial{dcid: "retried!", token: "tok", number: 1}, crypto(msg, 0, 40)),
			pkt(initial{dcid: "retried!", token: "tok", number: 2}, crypto(msg, 40, n))}, Done, want},
		{"server's connection ID", []string{pkt(initial{}, crypto(msg, 0, 30)), pkt(initial{dcid: "server", keyID: dcid, number: 1}, crypto(msg, 30, n))}, Done, want},
		{"compatible version negotiation", []string{pkt(initial{}, crypto(msg, 0, 30)),
			pkt(initial{version: quicV2, dcid: "server", keyID: dcid, number: 1}, crypto(msg, 30, n))}, Done, want},
		{"junk in between", []string{pkt(initial{}, crypto(msg, 0, 30)), "\x40junk", unknown, pkt(initial{number: 1}, crypto(msg, 30, n))}, Done, want},
		{"Initial that does not open first", []string{pkt(initial{keyID: "other"}, all), pkt(initial{}, all)}, Done, want},
		{"no server_name", []string{pkt(initial{}, crypto(hello(alpn("h3")), 0, len(hello(alpn("h3")))))}, Done, Hint{Protocol: "quic", ALPN: []string{"h3"}}},

		{"overlap that differs", []string{pkt(initial{}, crypto(msg, 0, n-5), crypto(other, 50, n))}, Done, bad("quic", "CRYPTO data that overlaps and differs")},
		{"overlap that differs later", []string{pkt(initial{}, crypto(msg, 60, n)), pkt(initial{number: 1}, crypto(other, 0, n))}, Done,
			bad("quic", "CRYPTO data that overlaps and differs")},
		{"two connections in a datagram", []string{pkt(initial{}, crypto(msg, 0, 30)) + pkt(initial{dcid: "another!"}, crypto(other, 0, n))}, Done,
			bad("quic", "packets of two connections in one datagram")},
		{"STREAM in an Initial", []string{pkt(initial{}, "\x08\x00", all)}, Done, bad("quic", "bad frame type in an Initial packet")},
		{"frame type in two octets", []string{pkt(initial{}, "\x40\x06", all[1:])}, Done, bad("quic", "bad frame type in an Initial packet")},
		{"truncated CRYPTO", []string{pkt(initial{}, "\x06\x00\x44\x00"+msg)}, Done, bad("quic", "a frame of an Initial packet is truncated")},
		{"truncated ACK", []string{pkt(initial{}, "\x02\x05\x00\xff\xff\xff\xff\xff\xff\xff\xff\x01")}, Done, bad("quic", "a frame of an Initial packet is truncated")},
		{"reserved bits", []string{pkt(initial{first: 0x04}, all)}, Done, bad("quic", "reserved bits are set in an Initial packet")},
		{"CRYPTO too far", []string{pkt(initial{}, "\x06"+varint(MaxCrypto-1)+"\x02xx")}, Done, bad("quic", "CRYPTO data beyond 65536 octets")},
		{"CRYPTO at the end of the world", []string{pkt(initial{}, "\x06"+varint(1<<62-1)+"\x02xx")}, Done, bad("quic", "CRYPTO data beyond 65536 octets")},
		{"ServerHello", []string{pkt(initial{}, crypto("\x02\x00\x00\x00", 0, 4))}, Done, bad("quic", "handshake does not begin with a ClientHello")},

		{"hello begun", []string{pkt(initial{}, crypto(msg, 0, 30))}, More, more},
		{"hello with a gap", []string{pkt(initial{}, crypto(msg, 0, 30), crypto(msg, 31, n))}, More, more},
		{"Initial that does not open", []string{pkt(initial{keyID: "other"}, all)}, More, more},
		{"Handshake packet", []string{handshake}, More, more},
		{"unknown version", []string{unknown}, Unknown, q},
		{"version negotiation", []string{"\xc3\x00\x00\x00\x00\x08" + dcid + "\x00\x00\x00\x00\x01"}, Unknown, Hint{}},
		{"Retry from a client", []string{"\xf0\x00\x00\x00\x01\x08" + dcid + "\x00" + strings.Repeat("r", 40)}, Unknown, Hint{}},
		{"short header", []string{"\x40" + strings.Repeat("s", 40)}, Unknown, Hint{}},
		{"DNS", []string{"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01"}, Unknown, Hint{}},
		{"empty", []string{""}, Unknown, Hint{}},
		{"Length beyond the datagram", []string{pkt(initial{}, all)[:60]}, Unknown, Hint{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hint, status := feedDatagrams(c.datagrams...)
			sameHint(t, "fed", hint, status, c.hint, c.status)
		})
	}
}

// TestQUICNames says that the name of a hello is read as strictly as over TCP.
func TestQUICNames(t *testing.T) {
	for _, s := range tlsSamples() {
		msg, whole := strings.CutPrefix(s.in, s.in[:recordHeader])
		if !whole || s.status != Done || s.in != record(msg) || s.in[recordHeader] != typeClientHello || strings.HasSuffix(s.name, "in a record") {
			continue // in Initial packets nothing follows a ClientHello but another one
		}
		want := s.hint
		want.Protocol = "quic"
		if want.Source != "" {
			want.Source = "quic-sni"
		}
		hint, status := feedDatagrams(initial{dcid: dcid, frames: crypto(msg, 0, len(msg)), pad: 64}.seal(t))
		sameHint(t, s.name, hint, status, want, Done)
	}
}

// TestQUICFragments cuts a hello into two CRYPTO frames at every octet, in both orders, in one datagram and in two.
func TestQUICFragments(t *testing.T) {
	msg := hello(sni("a.example"))
	n := len(msg)
	for cut := 1; cut < n; cut++ {
		a, b := crypto(msg, 0, cut), crypto(msg, cut, n)
		first := initial{dcid: dcid, frames: a, pad: 40}.seal(t)
		second := initial{dcid: dcid, number: 1, frames: b, pad: 40}.seal(t)
		for i, datagrams := range [][]string{
			{initial{dcid: dcid, frames: a + b}.seal(t)}, {initial{dcid: dcid, frames: b + a}.seal(t)},
			{first, second}, {second, first}, {first + second}, {second + first},
		} {
			hint, status := feedDatagrams(datagrams...)
			sameHint(t, fmt.Sprintf("cut at %d, way %d", cut, i), hint, status, quicHint("a.example"), Done)
		}
	}
}

// TestRealInitials reads what quic-go sends, in every order.
func TestRealInitials(t *testing.T) {
	ech := echConfigs(t, "public.example")
	for _, version := range []quic.Version{quic.Version1, quic.Version2} {
		for name, c := range map[string]struct {
			config *tls.Config
			want   Hint
		}{
			"ML-KEM": {&tls.Config{ServerName: "a.example", NextProtos: []string{"h3"}},
				Hint{Protocol: "quic", Host: "a.example", Source: "quic-sni", ALPN: []string{"h3"}}},
			"small": {&tls.Config{ServerName: "a.example", NextProtos: []string{"h3"}, CurvePreferences: []tls.CurveID{tls.X25519}},
				Hint{Protocol: "quic", Host: "a.example", Source: "quic-sni", ALPN: []string{"h3"}}},
			"ECH": {&tls.Config{ServerName: "secret.example", NextProtos: []string{"h3"}, EncryptedClientHelloConfigList: ech},
				Hint{Protocol: "quic", Host: "public.example", Source: "quic-sni", ALPN: []string{"h3"}, ECH: true}},
		} {
			t.Run(fmt.Sprint(version, " ", name), func(t *testing.T) {
				datagrams := realInitials(t, version, c.config)
				t.Logf("%d datagrams", len(datagrams))
				for _, order := range permutations(datagrams[:min(len(datagrams), 4)]) {
					hint, status := feedDatagrams(append(order, datagrams[len(order):]...)...)
					sameHint(t, "permuted", hint, status, c.want, Done)
				}
			})
		}
	}
}

func permutations(s []string) [][]string {
	if len(s) <= 1 {
		return [][]string{s}
	}
	var all [][]string
	for i := range s {
		others := slices.Delete(slices.Clone(s), i, i+1)
		for _, p := range permutations(others) {
			all = append(all, append([]string{s[i]}, p...))
		}
	}
	return all
}

// TestQUICNext follows a 5-tuple after its first claim.
func TestQUICNext(t *testing.T) {
	msg, other := hello(sni("a.example")), hello(sni("b.example"))
	n := len(msg)
	second := hello(sni("a.example"), ext(44, "cookie"))
	pkt := func(p initial) []byte {
		if p.dcid == "" {
			p.dcid = dcid
		}
		p.pad = 64
		return []byte(p.seal(t))
	}
	type step struct {
		name     string
		datagram []byte
		hint     Hint
		status   Status
		fresh    bool
	}
	known := quicHint("a.example")
	for name, steps := range map[string][]step{
		"the rest of the connection": {
			{"ACK to the server's ID", pkt(initial{dcid: "server", keyID: dcid, number: 1, frames: "\x02\x00\x00\x00\x00"}), known, Done, false},
			{"hello again", pkt(initial{number: 2, frames: crypto(msg, 0, n)}), known, Done, false},
			{"short header", []byte("\x40" + strings.Repeat("s", 40)), known, Done, false},
			{"second hello", pkt(initial{dcid: "server", keyID: dcid, number: 3, frames: crypto(msg+second, n, n+len(second))}), known, Done, false},
		},
		"a second connection": {
			{"half a hello", pkt(initial{dcid: "another!", frames: crypto(other, 0, 30)}), Hint{Protocol: "quic"}, More, true},
			{"first connection still", pkt(initial{number: 2, frames: "\x01"}), known, Done, false},
			{"the other half", pkt(initial{dcid: "another!", number: 1, frames: crypto(other, 30, n)}), quicHint("b.example"), Done, true},
			{"again", pkt(initial{dcid: "another!", number: 2, frames: crypto(other, 0, n)}), known, Done, false},
		},
		"another hello under the same keys": {
			{"same ID", pkt(initial{number: 1, frames: crypto(other, 0, n)}), bad("quic", "CRYPTO data that overlaps and differs"), Done, true},
		},
		"another hello to the server's ID": {
			{"server's ID", pkt(initial{dcid: "server", keyID: dcid, number: 1, frames: crypto(other, 40, n)}),
				bad("quic", "CRYPTO data that overlaps and differs"), Done, true},
		},
		"another name after HelloRetryRequest": {
			{"second hello", pkt(initial{number: 1, frames: crypto(msg+other, n, 2*n)}), bad("quic", "second ClientHello with another name"), Done, true},
		},
		"an Initial that does not open": {
			{"unknown keys", pkt(initial{dcid: "server", keyID: "nobody's", frames: crypto(other, 0, n)}), Hint{Protocol: "quic"}, Unknown, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var q QUIC
			hint, status := q.Feed(pkt(initial{frames: crypto(msg, 0, n)}))
			sameHint(t, "first", hint, status, known, Done)
			for _, s := range steps {
				hint, status, fresh := q.Next(s.datagram)
				sameHint(t, s.name, hint, status, s.hint, s.status)
				if fresh != s.fresh {
					t.Fatalf("%s: fresh = %v", s.name, fresh)
				}
			}
			hint, status = q.Feed([]byte("anything"))
			sameHint(t, "Feed after the end", hint, status, known, Done)
		})
	}
}

// TestQUICIsBounded feeds connections that never show a hello.
func TestQUICIsBounded(t *testing.T) {
	var q QUIC
	want := bad("quic", "no whole ClientHello in the first datagrams")
	var hint Hint
	var status Status
	for i := range MaxDatagrams {
		if status != More {
			t.Fatalf("%v after %d datagrams", status, i)
		}
		hint, status = q.Feed([]byte(initial{dcid: fmt.Sprintf("%08d", i), frames: "\x01", pad: 64}.seal(t)))
		if len(q.attempts) > maxAttempts {
			t.Fatalf("%d connections kept", len(q.attempts))
		}
	}
	sameHint(t, "many connections", hint, status, want, Done)

	var later QUIC
	msg := hello(sni("a.example"))
	later.Feed([]byte(initial{dcid: dcid, frames: crypto(msg, 0, len(msg))}.seal(t)))
	for i := range MaxDatagrams {
		hint, status, _ = later.Next([]byte(initial{dcid: "another!", number: int64(i), frames: "\x01", pad: 64}.seal(t)))
	}
	sameHint(t, "second connection", hint, status, want, Done)
}

// TestIsInitial is what the cheap test sees.
func TestIsInitial(t *testing.T) {
	packet := initial{dcid: dcid, frames: "\x01", pad: 64}.seal(t)
	zeroRTT := "\xd3\x00\x00\x00\x01\x08" + dcid + "\x00\x20" + strings.Repeat("z", 32)
	for name, c := range map[string]struct {
		in   string
		want bool
	}{
		"Initial":           {packet, true},
		"behind 0-RTT":      {zeroRTT + packet, true},
		"0-RTT":             {zeroRTT, false},
		"short header":      {"\x40" + strings.Repeat("s", 40), false},
		"truncated":         {packet[:40], false},
		"empty":             {"", false},
		"unknown version":   {"\xc3\x1a\x2a\x3a\x4a" + packet[5:], false},
		"ID of 21 octets":   {"\xc3\x00\x00\x00\x01\x15" + strings.Repeat("d", 21) + "\x00\x00\x20" + strings.Repeat("x", 32), false},
		"version 2 Initial": {initial{version: quicV2, dcid: dcid, frames: "\x01", pad: 64}.seal(t), true},
	} {
		id, ok := IsInitial([]byte(c.in))
		if ok != c.want || ok && !bytes.Equal(id, []byte(dcid)) {
			t.Errorf("%s: %x, %v", name, id, ok)
		}
	}
}

// TestIsForeign tells versions that nobody here can read from everything else.
func TestIsForeign(t *testing.T) {
	packet := initial{dcid: dcid, frames: "\x01", pad: 64}.seal(t)
	for name, c := range map[string]struct {
		in   string
		want bool
	}{
		"Initial":             {packet, false},
		"a vendor's version":  {"\xc3\xfa\xce\xb0\x02" + packet[5:], true},
		"reserved version":    {"\xc3\x1a\x2a\x3a\x4a" + packet[5:], true},
		"version 2 Initial":   {initial{version: quicV2, dcid: dcid, frames: "\x01", pad: 64}.seal(t), false},
		"version negotiation": {"\xc3\x00\x00\x00\x00" + packet[5:], false},
		"short header":        {"\x40" + strings.Repeat("s", 40), false},
		"truncated":           {"\xc3\x1a\x2a\x3a\x4a\x14", false},
		"empty":               {"", false},
	} {
		if got := IsForeign([]byte(c.in)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
