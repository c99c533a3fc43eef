package sniff

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// sample is the beginning of a stream and what it claims.
type sample struct {
	name   string
	in     string
	status Status
	hint   Hint
}

func tlsHint(host string) Hint {
	return Hint{Protocol: "tls", Host: host, Source: "sni"}
}

func httpHint(host string, port uint16) Hint {
	return Hint{Protocol: "http", Host: host, Port: port, Source: "http-host"}
}

func bad(protocol, reason string) Hint { return Hint{Protocol: protocol, Malformed: reason} }

func tlsSamples() []sample {
	addr := Hint{Protocol: "tls", HostIP: netip.MustParseAddr("192.0.2.1"), Source: "sni"}
	addr6 := addr
	addr6.HostIP = netip.MustParseAddr("2001:db8::1")
	everything := tlsHint("a.example")
	everything.ALPN, everything.ECH = []string{"h2", "http/1.1"}, true
	many := tlsHint("a.example")
	for i := range MaxALPN {
		many.ALPN = append(many.ALPN, fmt.Sprint("p", i))
	}
	overlong := "\x01\x01\x00\x00" + strings.Repeat("\x00", 10)
	return []sample{
		{"name", record(hello(sni("a.example"))), Done, tlsHint("a.example")},
		{"name, upper case and final dot", record(hello(sni("A.Example."))), Done, tlsHint("a.example")},
		{"no server_name", record(hello(ext(43, "\x02\x03\x04"))), Done, Hint{Protocol: "tls"}},
		{"empty extensions", record(hello()), Done, Hint{Protocol: "tls"}},
		{"no extensions", record("\x01" + u24(helloFixed, u8(), u16("\x00\x2f"), u8("\x00"))), Done, Hint{Protocol: "tls"}},
		{"ALPN and ECH", record(hello(sni("a.example"), alpn("h2", "http/1.1"), ext(extECH, "x"))), Done, everything},
		{"more ALPN than are kept", record(hello(sni("a.example"), alpn(append(many.ALPN, "one", "more")...))), Done, many},
		{"IPv4 address", record(hello(sni("192.0.2.1"))), Done, addr},
		{"IPv6 address", record(hello(sni("2001:db8::1"))), Done, addr6},
		{"two messages in a record", record(hello(sni("a.example")) + "\x14\x00\x00\x00"), Done, tlsHint("a.example")},
		{"two hellos in a record", record(hello(sni("a.example")) + hello(sni("b.example"))), Done, bad("tls", "two ClientHellos in a record")},
		{"early data behind", record(hello(sni("a.example"))) + "\x17\x03\x03\x00\x01x", Done, tlsHint("a.example")},
		{"records of one octet", records(hello(sni("a.example")), 1), Done, tlsHint("a.example")},
		{"records of 100 octets", records(hello(ext(21, strings.Repeat("\x00", 40000)), sni("a.example")), 100), Done, tlsHint("a.example")},
		{"longest hello", records("\x01"+u24(helloFixed, u8(), u16("\x13\x01"), u8("\x00"),
			u16(sni("a.example"), ext(21, strings.Repeat("\x00", MaxHello-4-34-1-4-2-2-18-4)))), maxRecord), Done, tlsHint("a.example")},
		{"odd version of the record", "\x16\x02\x09" + u16(hello(sni("a.example"))), Done, tlsHint("a.example")},
		{"SSL 2 hello", "\x80\x1e\x01\x03\x01\x00\x03\x00\x00\x00\x10\x00\x00\x2f0123456789abcde" + "f...", Unknown, Hint{}},

		{"two names", record(hello(sni("a.example", "b.example"))), Done, bad("tls", "two names in server_name")},
		{"the name twice", record(hello(sni("a.example", "a.example"))), Done, bad("tls", "two names in server_name")},
		{"two server_name extensions", record(hello(sni("a.example"), sni("b.example"))), Done, bad("tls", "an extension stands twice")},
		{"no name in server_name", record(hello(sni())), Done, bad("tls", "server_name is empty")},
		{"empty server_name extension", record(hello(ext(0, ""))), Done, bad("tls", "bad length of server_name")},
		{"other name type", record(hello(ext(0, u16("\x01"+u16("a.example"))))), Done, bad("tls", "a name type other than host_name in server_name")},
		{"octets behind the list", record(hello(ext(0, u16("\x00"+u16("a.example"))+"x"))), Done, bad("tls", "bad length of server_name")},
		{"name shorter than its length", record(hello(ext(0, u16("\x00\x00\x20a.example")))), Done, bad("tls", "bad length in server_name")},
		{"empty name", record(hello(sni(""))), Done, bad("tls", "bad host: host name is empty")},
		{"NUL in the name", record(hello(sni("a.example\x00.b.example"))), Done,
			bad("tls", `bad host: host name "a.example\x00.b.example": octet 0x00 at 9 is not allowed`)},
		{"address in brackets", record(hello(sni("[::1]"))), Done, bad("tls", "bad host: an IP address is not a host name")},
		{"address with zone", record(hello(sni("fe80::1%lo"))), Done, bad("tls", "bad host: an IP address is not a host name")},
		{"empty ALPN", record(hello(alpn())), Done, bad("tls", "bad length of application_layer_protocol_negotiation")},
		{"empty name in ALPN", record(hello(alpn("h2", ""))), Done, bad("tls", "bad name in application_layer_protocol_negotiation")},
		{"extension beyond the hello", record("\x01" + u24(helloFixed, u8(), u16("\x13\x01"), u8("\x00"), "\x00\x09\x00\x00")), Done,
			bad("tls", "length of extensions does not fit the ClientHello")},
		{"octets behind the extensions", record("\x01" + u24(helloFixed, u8(), u16("\x13\x01"), u8("\x00"), u16(sni("a.example")), "x")), Done,
			bad("tls", "length of extensions does not fit the ClientHello")},
		{"extension without its data", record(hello("\x00\x00\x00\x09")), Done, bad("tls", "an extension is truncated")},
		{"hello of no octets", record("\x01\x00\x00\x00"), Done, bad("tls", "ClientHello is truncated")},
		{"long session ID", record("\x01" + u24(helloFixed, u8(strings.Repeat("s", 33)), u16("\x13\x01"), u8("\x00"))), Done,
			bad("tls", "session ID of more than 32 octets")},
		{"odd cipher suites", record("\x01" + u24(helloFixed, u8(), u16("\x13"), u8("\x00"))), Done, bad("tls", "bad length of cipher_suites")},
		{"no compression", record("\x01" + u24(helloFixed, u8(), u16("\x13\x01"), u8())), Done, bad("tls", "no compression method")},
		{"hello too long", record(overlong), Done, bad("tls", "ClientHello of 65540 octets")},
		{"alert inside the hello", record(hello(sni("a.example"))[:50]) + "\x15\x03\x01\x00\x02\x01\x00", Done, bad("tls", "another record before the end of the ClientHello")},
		{"empty record first", "\x16\x03\x01\x00\x00" + record(hello(sni("a.example"))), Done, bad("tls", "empty handshake record")},
		{"empty record later", record("\x01\x00") + record(""), Done, bad("tls", "empty handshake record")},
		{"record too long", "\x16\x03\x01\x40\x01\x01", Done, bad("tls", "record of more than 16384 octets")},
		{"more records than are looked at", records(hello(sni("a.example"), ext(21, strings.Repeat("\x00", 20000))), 1), Done,
			bad("tls", "the claim is not complete within the first octets that are looked at")},

		{"warning before the hello", "\x15\x03\x01\x00\x02\x01\x5a" + record(hello(sni("a.example"))), Done,
			bad("tls", "another record before the end of the ClientHello")},

		{"incomplete", record(hello(sni("a.example")))[:70], More, Hint{Protocol: "tls"}},
		{"alert", "\x15\x03\x01\x00\x02\x02\x28", Unknown, Hint{}},
		{"ServerHello", record("\x02\x00\x00\x00"), Unknown, Hint{}},
		{"application data", "\x17\x03\x03\x00\x05hello", Unknown, Hint{}},
	}
}

func httpSamples() []sample {
	connect := Hint{Protocol: "http-connect", Host: "a.example", Port: 443, Source: "http-host"}
	connect6 := Hint{Protocol: "http-connect", HostIP: netip.MustParseAddr("2001:db8::1"), Port: 443, Source: "http-host"}
	v4 := Hint{Protocol: "http", HostIP: netip.MustParseAddr("192.0.2.1"), Port: 8080, Source: "http-host"}
	v6 := Hint{Protocol: "http", HostIP: netip.MustParseAddr("::1"), Source: "http-host"}
	const crlf = "\r\n"
	return []sample{
		{"GET", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"port, case, space", "GET /x?y=z HTTP/1.1\r\nAccept: */*\r\nhOsT:\t A.Example.:8080 \t\r\n\r\nbody", Done, httpHint("a.example", 8080)},
		{"any method", "FROBNICATE / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"WebSocket", "GET /s HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n", Done, httpHint("a.example", 0)},
		{"h2c upgrade", "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\n\r\n", Done, httpHint("a.example", 0)},
		{"long method", strings.Repeat("X", 100) + " / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"many empty lines first", strings.Repeat("\n", 100) + "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"octets above ASCII elsewhere", "GET /\xc3\xa4 HTTP/1.1\r\nX: \xe4\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"IPv4 address", "GET / HTTP/1.1\r\nHost: 192.0.2.1:8080\r\n\r\n", Done, v4},
		{"IPv6 address", "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", Done, v6},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", Done, Hint{Protocol: "http"}},
		{"HTTP/1.1 without Host", "GET / HTTP/1.1\r\n\r\n", Done, Hint{Protocol: "http"}},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", Done, Hint{Protocol: "http"}},
		{"HTTP/0.9", "GET /index.html\r\n", Done, Hint{Protocol: "http"}},
		{"absolute form", "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},
		{"absolute form without Host", "GET http://a.example:81?q HTTP/1.0\r\n\r\n", Done, httpHint("a.example", 81)},
		{"absolute form, default port", "GET HTTP://a.example HTTP/1.1\r\nHost: a.example:80\r\n\r\n", Done, httpHint("a.example", 0)},
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", Done, connect},
		{"CONNECT, Host without port", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, connect},
		{"CONNECT, no Host", "CONNECT a.example:443 HTTP/1.0\r\n\r\n", Done, connect},
		{"CONNECT to an address", "CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n", Done, connect6},
		{"long head", "GET / HTTP/1.1\r\nCookie: " + strings.Repeat("c", 60<<10) + "\r\nHost: a.example\r\n\r\n", Done, httpHint("a.example", 0)},

		{"two Host lines", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", Done, bad("http", "two Host lines")},
		{"the Host line twice", "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\nHost: a.example\r\n\r\n", Done, bad("http", "two Host lines")},
		{"list in Host", "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", Done,
			bad("http", `bad host: host name "a.example, b.example": octet 0x2c at 9 is not allowed`)},
		{"userinfo in Host", "GET / HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n", Done,
			bad("http", `bad host: host name "a.example@b.example": octet 0x40 at 9 is not allowed`)},
		{"odd spelling of an address", "GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", Done, bad("http", `bad host: host name "0x7f.1": last label is a number`)},
		{"IPv6 without brackets", "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Done, bad("http", "bad host: host name is empty")},
		{"name in brackets", "GET / HTTP/1.1\r\nHost: [a.example]\r\n\r\n", Done, bad("http", "bad host: no IPv6 address in brackets")},
		{"IPv4 in brackets", "GET / HTTP/1.1\r\nHost: [192.0.2.1]\r\n\r\n", Done, bad("http", "bad host: no IPv6 address in brackets")},
		{"octets behind the brackets", "GET / HTTP/1.1\r\nHost: [::1]a.example\r\n\r\n", Done, bad("http", "bad host: brackets do not match")},
		{"port that is none", "GET / HTTP/1.1\r\nHost: a.example:80a\r\n\r\n", Done, bad("http", "bad port in authority")},
		{"port too large", "GET / HTTP/1.1\r\nHost: a.example:65536\r\n\r\n", Done, bad("http", "bad port in authority: 65536")},
		{"port zero", "GET / HTTP/1.1\r\nHost: a.example:0\r\n\r\n", Done, bad("http", "bad port in authority: 0")},
		{"folded Host", "GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n", Done, bad("http", "folded header line")},
		{"folded other line", "GET / HTTP/1.1\r\nX: y\r\n\tz\r\nHost: a.example\r\n\r\n", Done, bad("http", "folded header line")},
		{"space first in the first line", "GET / HTTP/1.1\r\n Host: b.example\r\nHost: a.example\r\n\r\n", Done, bad("http", "folded header line")},
		{"space before the colon", "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", Done, bad("http", "bad name of a header line")},
		{"no colon", "GET / HTTP/1.1\r\nHost a.example\r\n\r\n", Done, bad("http", "header line without a name")},
		{"no name", "GET / HTTP/1.1\r\n: a.example\r\n\r\n", Done, bad("http", "header line without a name")},
		{"bare LF", "GET / HTTP/1.1\r\nX: y\nHost: a.example\r\n\r\n", Done, bad("http", "bare CR or LF in the head")},
		{"bare LF in the first line", "GET / HTTP/1.1\nHost: a.example\n\n", Done, bad("http", "bare CR or LF in the head")},
		{"bare LF, unknown method", "FROBNICATE * HTTP/1.1\nHost: a.example\n\n", Done, bad("http", "bare CR or LF in the head")},
		{"bare CR", "GET / HTTP/1.1\r\nX: y\rHost: b.example\r\nHost: a.example\r\n\r\n", Done, bad("http", "bare CR or LF in the head")},
		{"two CR", "GET / HTTP/1.1\r\nHost: a.example\r\r\n\r\n", Done, bad("http", "bare CR or LF in the head")},
		{"NUL", "GET / HTTP/1.1\r\nHost: a.example\x00.b.example\r\n\r\n", Done, bad("http", "control character in the head")},
		{"NUL in the first line", "GET /\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "control character in the head")},
		{"target and Host differ", "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", Done, bad("http", "target and Host name two hosts")},
		{"ports differ", "GET http://a.example/ HTTP/1.1\r\nHost: a.example:8080\r\n\r\n", Done, bad("http", "target and Host name two hosts")},
		{"CONNECT and Host differ", "CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", Done, bad("http-connect", "target and Host name two hosts")},
		{"CONNECT without a port", "CONNECT a.example HTTP/1.1\r\n\r\n", Done, bad("http-connect", "no port in the target of CONNECT")},
		{"userinfo in the target", "GET http://u@a.example/ HTTP/1.1\r\n\r\n", Done, bad("http", `bad host: host name "u@a.example": octet 0x40 at 1 is not allowed`)},
		{"backslash in the target", `GET http://a.example\@b.example/ HTTP/1.1` + crlf + crlf, Done,
			bad("http", `bad host: host name "a.example\\@b.example": octet 0x5c at 9 is not allowed`)},
		{"odd first octet of the target", "GET ?x HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request target")},
		{"words and a version", "x GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"target that is none", "GET *x HTTP/1.1\r\n\r\n", Done, bad("http", "bad request target")},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"space behind the version", "GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"space in the target", "GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"tabs", "GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"no target", "GET  HTTP/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"HTTP/2 in a line", "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"version in lower case", "GET / http/1.1\r\nHost: a.example\r\n\r\n", Done, bad("http", "bad request line")},
		{"endless line", "GET /" + strings.Repeat("x", MaxStream), Done,
			bad("http", "the claim is not complete within the first octets that are looked at")},

		{"first line only", "GET / HTTP/1.1\r\nHost: a.example\r\n", More, Hint{Protocol: "http"}},
		{"only empty lines", strings.Repeat("\r\n", maxBlank), More, Hint{Protocol: "http"}},
		{"endless word", strings.Repeat("x", 100), More, Hint{Protocol: "http"}},
		{"long word that is no method", strings.Repeat("x", 100) + "\r\n", Unknown, Hint{}},
	}
}

// otherSamples are protocols that claim nothing, and the first lines of clients whose servers would wait for the rest.
func otherSamples() []sample {
	ssl := Hint{Protocol: "postgres", Upgrade: true, Consumed: 8}
	return []sample{
		{"SSLRequest", "\x00\x00\x00\x08\x04\xd2\x16\x2f", Done, ssl},
		{"SSLRequest, hello behind", "\x00\x00\x00\x08\x04\xd2\x16\x2f" + record(hello(sni("a.example"))), Done, ssl},
		{"GSSENCRequest", "\x00\x00\x00\x08\x04\xd2\x16\x30", Done, ssl},
		{"StartupMessage", "\x00\x00\x00\x1e\x00\x03\x00\x00user\x00postgres\x00\x00", Done, Hint{Protocol: "postgres"}},
		{"StartupMessage 3.2", "\x00\x00\x00\x1e\x00\x03\x00\x02user\x00postgres\x00\x00", Done, Hint{Protocol: "postgres"}},
		{"CancelRequest", "\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02", Done, Hint{Protocol: "postgres"}},
		{"Kafka metadata", "\x00\x00\x00\x1e\x00\x03\x00\x00\x00\x00\x00\x01\x00\x04test", Unknown, Hint{}},
		{"SSLRequest of another length", "\x00\x00\x00\x09\x04\xd2\x16\x2fx", Unknown, Hint{}},
		{"SSH", "SSH-2.0-OpenSSH_9.9\r\n", Done, Hint{Protocol: "ssh"}},
		{"SSH 1.99", "SSH-1.99-x\r\n", Done, Hint{Protocol: "ssh"}},
		{"SOCKS 5", "\x05\x01\x00", Done, Hint{Protocol: "socks"}},
		{"SOCKS 4a", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00a.example\x00", Done, Hint{Protocol: "socks"}},
		{"SSL 2 hello of TLS", "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + strings.Repeat("\x00\x00\x2f", 7) + "0123456789abcdef", Done, Hint{Protocol: "tls"}},

		{"SMTP", "EHLO client.example\r\n", Unknown, Hint{}},
		{"IMAP", "a001 LOGIN user pass\r\n", Unknown, Hint{}},
		{"POP3", "USER bob\r\n", Unknown, Hint{}},
		{"Redis", "*1\r\n$4\r\nPING\r\n", Unknown, Hint{}},
		{"Redis inline", "GET key\r\n", Unknown, Hint{}},
		{"memcached", "get key\r\n", Unknown, Hint{}},
		{"memcached set", "set key 0 0 1\r\nx\r\n", Unknown, Hint{}},
		{"NATS", "CONNECT {\"verbose\":false}\r\n", Unknown, Hint{}},
		{"STOMP", "CONNECT\naccept-version:1.2\n\n\x00", Unknown, Hint{}},
		{"RTSP", "DESCRIBE rtsp://a.example/x RTSP/1.0\r\n", Unknown, Hint{}},
		{"RTSP options", "OPTIONS rtsp://a.example/x RTSP/1.0\r\n", Unknown, Hint{}},
		{"SIP", "INVITE sip:bob@a.example SIP/2.0\r\n", Unknown, Hint{}},
		{"AMQP", "AMQP\x00\x00\x09\x01", Unknown, Hint{}},
		{"MQTT", "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c", Unknown, Hint{}},
		{"Cassandra", "\x04\x00\x00\x00\x05\x00\x00\x00\x00", Unknown, Hint{}},
		{"MongoDB", "\x41\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00", Unknown, Hint{}},
		{"NUL", "\x00\x00\x00\x00\x00\x00\x00\x00", Unknown, Hint{}},
		{"newline", "hello\n", Unknown, Hint{}},
	}
}

// frame is an HTTP/2 frame.
func frame(typ, flags byte, stream int, payload string) string {
	return u24(payload)[:3] + string([]byte{typ, flags, 0, 0, 0, byte(stream)}) + payload
}

// block is an HPACK header block of name, value pairs.
func block(pairs ...string) string {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.String()
}

func h2Samples() []sample {
	const preface = h2Preface + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
	get := func(pairs ...string) string {
		return block(append([]string{":method", "GET", ":scheme", "http", ":path", "/"}, pairs...)...)
	}
	a := get(":authority", "a.example:8080")
	headers := func(fields string) string { return preface + frame(h2Headers, h2EndHeaders, 1, fields) }
	want := Hint{Protocol: "h2c", Host: "a.example", Port: 8080, Source: "http-host"}
	connect := Hint{Protocol: "http-connect", Host: "a.example", Port: 443, Source: "http-host"}
	return []sample{
		{"HEADERS", headers(a), Done, want},
		{"other frames first", preface + frame(8, 0, 0, "\x00\x00\x10\x00") + frame(2, 0, 3, "\x00\x00\x00\x00\x01") + frame(h2Headers, h2EndHeaders|1, 1, a), Done, want},
		{"padding and priority", preface + frame(h2Headers, h2EndHeaders|h2Padded|h2Priority, 1, "\x04\x00\x00\x00\x00\x10"+a+"\x00\x00\x00\x00"), Done, want},
		{"CONTINUATION", preface + frame(h2Headers, 1, 1, a[:3]) + frame(h2Continuation, 0, 1, a[3:7]) + frame(h2Continuation, h2EndHeaders, 1, a[7:]), Done, want},
		{"host", headers(get("host", "a.example:8080")), Done, want},
		{"authority and host", headers(get(":authority", "a.example:8080", "host", "A.example:8080")), Done, want},
		{"no authority", headers(get("accept", "*/*")), Done, Hint{Protocol: "h2c"}},
		{"CONNECT", headers(block(":method", "CONNECT", ":authority", "a.example:443")), Done, connect},
		{"extended CONNECT", headers(block(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a.example:8080")), Done, want},

		{"authority and host differ", headers(get(":authority", "a.example", "host", "b.example")), Done, bad("h2c", "target and Host name two hosts")},
		{"two authorities", headers(get(":authority", "a.example", ":authority", "b.example")), Done, bad("h2c", "HTTP/2 pseudo-header stands twice or late")},
		{"authority behind a field", headers(get("x", "y", ":authority", "a.example")), Done, bad("h2c", "HTTP/2 pseudo-header stands twice or late")},
		{"two hosts", headers(get("host", "a.example", "host", "b.example")), Done, bad("h2c", "two Host lines")},
		{"Host in upper case", headers(get("Host", "a.example")), Done, bad("h2c", "bad field name in the HTTP/2 header block")},
		{"bad authority", headers(get(":authority", "a b")), Done, bad("h2c", `bad host: host name "a b": octet 0x20 at 1 is not allowed`)},
		{"CONNECT without a port", headers(block(":method", "CONNECT", ":authority", "a.example")), Done, bad("http-connect", "no port in the target of CONNECT")},
		{"bad block", headers("\x7f\xff\xff\xff\xff\xff"), Done, bad("h2c", "bad HTTP/2 header block")},
		{"no SETTINGS", h2Preface + frame(h2Headers, h2EndHeaders, 1, a), Done, bad("h2c", "HTTP/2 does not begin with SETTINGS")},
		{"DATA first", preface + frame(h2Data, 0, 1, "x"), Done, bad("h2c", "HTTP/2 frame out of order")},
		{"even stream", preface + frame(h2Headers, h2EndHeaders, 2, a), Done, bad("h2c", "bad HTTP/2 HEADERS frame")},
		{"padding beyond the frame", preface + frame(h2Headers, h2EndHeaders|h2Padded, 1, "\xff"+a), Done, bad("h2c", "bad HTTP/2 HEADERS frame")},
		{"interrupted block", preface + frame(h2Headers, 0, 1, a[:3]) + frame(6, 0, 0, "12345678"), Done, bad("h2c", "HTTP/2 header block is interrupted")},
		{"frame too long", preface + "\x00\x40\x01\x00\x00\x00\x00\x00\x00", Done, bad("h2c", "HTTP/2 frame of more than 16384 octets")},
		{"header bomb", headers(block("x", strings.Repeat("y", 3000)) + strings.Repeat("\xbe", 200)), Done, bad("h2c", "HTTP/2 header block is too large")},
		{"almost a preface", "PRI * HTTP/2.0\r\n\r\nGET", Done, bad("http", "bad request line")},

		{"preface only", h2Preface, More, Hint{Protocol: "h2c"}},
		{"client waits for SETTINGS", preface, More, Hint{Protocol: "h2c", MayWait: true}},
		{"HEADERS begun", preface + "\x00", More, Hint{Protocol: "h2c"}},
	}
}

func allSamples() []sample {
	var all []sample
	for prefix, samples := range map[string][]sample{"tls": tlsSamples(), "http": httpSamples(), "h2": h2Samples(), "other": otherSamples()} {
		for _, s := range samples {
			s.name = prefix + "/" + s.name
			all = append(all, s)
		}
	}
	return all
}

// TestStream is the table of what the first bytes of a stream claim. Each sample must give the same answer however it is
// cut: whole, in single bytes and in two at every position (long ones at some).
func TestStream(t *testing.T) {
	for _, s := range allSamples() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			hint, status := feed(s.in)
			sameHint(t, "whole", hint, status, s.hint, s.status)
			hint, status = feedBytes(s.in)
			sameHint(t, "in single bytes", hint, status, s.hint, s.status)
			step := 1 + len(s.in)/2000
			for cut := 0; cut <= len(s.in); cut += step {
				hint, status = feed(s.in, cut)
				sameHint(t, fmt.Sprint("cut at ", cut), hint, status, s.hint, s.status)
			}
		})
	}
}

// TestStreamIsPrefixStable says that an answer, once final, is that of every longer stream too.
func TestStreamIsPrefixStable(t *testing.T) {
	for _, s := range allSamples() {
		if s.status == More {
			continue
		}
		hint, status := feed(s.in + "\x16\x03\x01 and more GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
		sameHint(t, s.name, hint, status, s.hint, s.status)
	}
}

// TestStreamRecords says that the answer to a hello does not depend on how it is cut into records.
func TestStreamRecords(t *testing.T) {
	msg := hello(alpn("h2"), sni("a.example"), ext(extECH, strings.Repeat("e", 100)))
	want, _ := feed(record(msg))
	for cut := 1; cut < len(msg); cut++ {
		hint, status := feed(record(msg[:cut]) + record(msg[cut:]))
		sameHint(t, fmt.Sprint("records cut at ", cut), hint, status, want, Done)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		in, left := "", msg
		for len(left) > 0 {
			n := 1 + random.IntN(len(left))
			in, left = in+record(left[:n]), left[n:]
		}
		hint, status := feed(in, random.IntN(len(in)))
		sameHint(t, "random records", hint, status, want, Done)
	}
}

// TestRealHellos reads what crypto/tls sends.
func TestRealHellos(t *testing.T) {
	ech := echConfigs(t, "public.example")
	for _, c := range []struct {
		name   string
		config *tls.Config
		want   Hint
	}{
		{"defaults (ML-KEM)", &tls.Config{ServerName: "a.example"}, tlsHint("a.example")},
		{"TLS 1.2", &tls.Config{ServerName: "a.example", MaxVersion: tls.VersionTLS12}, tlsHint("a.example")},
		{"ALPN", &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}},
			Hint{Protocol: "tls", Host: "a.example", Source: "sni", ALPN: []string{"h2", "http/1.1"}}},
		{"address", &tls.Config{ServerName: "192.0.2.1"}, Hint{Protocol: "tls"}},
		{"ECH", &tls.Config{ServerName: "secret.example", EncryptedClientHelloConfigList: ech},
			Hint{Protocol: "tls", Host: "public.example", Source: "sni", ECH: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := string(realHello(t, c.config))
			for cut := range len(in) + 1 {
				hint, status := feed(in, cut)
				sameHint(t, fmt.Sprint("cut at ", cut), hint, status, c.want, Done)
			}
			hint, status := feed(records(in[recordHeader:], 1))
			sameHint(t, "records of one octet", hint, status, c.want, Done)
			hint, status = feed(in[:len(in)-1])
			sameHint(t, "one octet short", hint, status, Hint{Protocol: "tls"}, More)
		})
	}
}

// TestRealRequests reads what net/http sends.
func TestRealRequests(t *testing.T) {
	for _, c := range []struct {
		url, host string
		want      Hint
	}{
		{"http://a.example/x?y", "", httpHint("a.example", 0)},
		{"http://a.example:8080/", "", httpHint("a.example", 8080)},
		{"http://192.0.2.7/", "b.example", httpHint("b.example", 0)},
		{"http://[2001:db8::1]:81/", "", Hint{Protocol: "http", HostIP: netip.MustParseAddr("2001:db8::1"), Port: 81, Source: "http-host"}},
	} {
		request, err := http.NewRequest("POST", c.url, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		request.Host = c.host
		var direct, proxied strings.Builder
		if err := request.Write(&direct); err != nil {
			t.Fatal(err)
		}
		hint, status := feed(direct.String())
		sameHint(t, c.url, hint, status, c.want, Done)
		if c.host == "" {
			request.Body = http.NoBody
			request.ContentLength = 0
			if err := request.WriteProxy(&proxied); err != nil {
				t.Fatal(err)
			}
			hint, status = feed(proxied.String())
			sameHint(t, c.url+" to a proxy", hint, status, c.want, Done)
		}
	}
}

// TestStreamSilence says that the bytes of other protocols are Unknown no later than at the end of their first line.
func TestStreamSilence(t *testing.T) {
	for _, s := range otherSamples() {
		if s.status != Unknown {
			continue
		}
		in := s.in
		if i := strings.IndexByte(in, '\n'); i >= 0 {
			in = in[:i+1]
		}
		if _, status := feed(in); status != Unknown {
			t.Errorf("%s: %v after its first line", s.name, status)
		}
	}
}

// TestStreamIsBounded feeds streams that never end.
func TestStreamIsBounded(t *testing.T) {
	for name, start := range map[string]string{
		"hello":         "\x16\x03\x01\x40\x00\x01\x00\xff\xf0",
		"line":          "GET /",
		"header":        "GET / HTTP/1.1\r\nX: ",
		"HTTP/2 block":  h2Preface + frame(h2Settings, 0, 0, "") + frame(h2Headers, 0, 1, "x"),
		"HTTP/2 frames": h2Preface + frame(h2Settings, 0, 0, ""),
	} {
		t.Run(name, func(t *testing.T) {
			var s Stream
			junk := strings.Repeat("x", 1000)
			if strings.HasPrefix(name, "HTTP/2") {
				junk = frame(h2Continuation, 0, 1, junk)
			}
			s.Feed([]byte(start))
			for total := len(start); total < 2*MaxStream; total += len(junk) {
				if s.Buffered() > MaxStream {
					t.Fatalf("%d octets kept", s.Buffered())
				}
				s.Feed([]byte(junk))
			}
			if hint, status := s.Feed(nil); status != Done || hint.Malformed == "" || s.Buffered() != 0 {
				t.Fatalf("%v %+v, %d octets kept", status, hint, s.Buffered())
			}
		})
	}
}
