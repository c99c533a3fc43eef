package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestVarints has the examples of RFC 9000 appendix A.1.
func TestVarints(t *testing.T) {
	for _, c := range []struct {
		hex string
		v   uint64
	}{
		{"c2197c5eff14e88c", 151288809941952652}, {"9d7f3e7d", 494878333}, {"7bbd", 15293}, {"25", 37}, {"4025", 37},
		{"3f", 63}, {"4040", 64}, {"ffffffffffffffff", MaxVarint},
	} {
		b, _ := hex.DecodeString(c.hex)
		if v, n := ParseVarint(append(b, 0xee)); v != c.v || n != len(b) {
			t.Errorf("%s is %d with %d octets", c.hex, v, n)
		}
		if v, err := ReadVarint(iotest.OneByteReader(bytes.NewReader(b))); v != c.v || err != nil {
			t.Errorf("%s reads %d, %v", c.hex, v, err)
		}
		if got := hex.EncodeToString(AppendVarint(nil, c.v)); got != c.hex && c.hex != "4025" {
			t.Errorf("%d becomes %s, want %s", c.v, got, c.hex)
		}
		if n := VarintLen(c.v); n != len(AppendVarint(nil, c.v)) {
			t.Errorf("VarintLen(%d) = %d", c.v, n)
		}
		for n := range b {
			if _, m := ParseVarint(b[:n]); m != 0 {
				t.Errorf("%x has an integer of %d octets", b[:n], m)
			}
		}
	}
}

// aHeader has every field.
var aHeader = Header{
	Kind: TCP, Patience: 30 * time.Second,
	Open: tunnel.Open{
		Owner: tunnel.Owner{App: "postgres-mcp", Sandbox: "7f3a9c"}, Flow: "7f3a9c-12", Network: "tcp",
		Addr: netip.MustParseAddrPort("10.0.1.50:5432"), Names: []string{"staging-db.internal.example.com"},
	},
}

var routes = []Route{
	{Suffix: "internal.example.com", Ports: []Ports{{5432, 5432}, {8000, 8999}}},
	{Prefix: netip.MustParsePrefix("10.0.0.0/8")},
	{Prefix: netip.MustParsePrefix("fd00::/8"), Ports: []Ports{{443, 443}}},
	{Suffix: "."},
}

// messages has one of each, with every field.
var messages = []Message{
	&Hello{Versions: []uint64{1, 7}, Generation: 1763750000, Software: "weir/0.5", OS: "linux/amd64", Routes: routes},
	&Welcome{
		Version: 1, Session: "a1b2c3", Space: "default", Client: "laptop", Time: time.UnixMilli(1763750000123),
		RenewAfter: 12 * time.Hour,
	},
	&Ping{Number: 42}, &Pong{Number: 42},
	&Drain{
		Code: tunnel.Draining, Text: "the edge stops", ReconnectAfter: time.Second, GiveUpAfter: time.Minute,
		Deadline: 30 * time.Second,
	},
	&Routes{Routes: routes[:1]},
	&Renew{CSR: []byte{0x30, 0x82}},
	&Renewed{Chain: []byte{0x30, 0x83}}, &Renewed{Code: tunnel.Denied, Text: "revoked"},
	&Goodbye{},
}

func TestMessages(t *testing.T) {
	for _, m := range messages {
		b := AppendMessage(nil, m)
		r := bytes.NewReader(append(b, 0xaa))
		got, err := ReadMessage(iotest.OneByteReader(r))
		if err != nil || !reflect.DeepEqual(got, m) || r.Len() != 1 {
			t.Errorf("%T came back as %+v with %d octets left, %v", m, got, r.Len(), err)
		}
		truncated(t, b, func(r io.Reader) error { _, err := ReadMessage(r); return err })
	}
	grease := AppendGrease(nil, 3)
	if typ, _ := ParseVarint(grease); !IsGrease(typ) {
		t.Errorf("type %d is no grease", typ)
	}
	if m, err := ReadMessage(bytes.NewReader(grease)); m != nil || err != nil {
		t.Errorf("grease is %v, %v", m, err)
	}
}

// truncated checks that what ends early is an error wherever it ends, and io.EOF only where nothing has begun.
func truncated(t *testing.T, b []byte, read func(io.Reader) error) {
	t.Helper()
	for n := range b {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err := read(bytes.NewReader(b[:n])); err != want {
			t.Errorf("%d octets of %d: %v, want %v", n, len(b), err, want)
		}
	}
}

func TestHeader(t *testing.T) {
	v6 := aHeader
	v6.Kind, v6.Open.Network = UDP, "udp"
	v6.Open.Addr = netip.MustParseAddrPort("[fd00::1]:443")
	dns := Header{Kind: DNS, Open: tunnel.Open{Owner: aHeader.Open.Owner}}
	for _, h := range []Header{aHeader, v6, dns, {Kind: Probe}} {
		b := AppendHeader(nil, h)
		r := bytes.NewReader(append(b, 0xaa))
		got, err := ReadHeader(iotest.OneByteReader(r))
		if err != nil || !reflect.DeepEqual(got, h) || r.Len() != 1 {
			t.Errorf("%+v came back as %+v with %d octets left, %v", h, got, r.Len(), err)
		}
		truncated(t, b, func(r io.Reader) error { _, err := ReadHeader(r); return err })
	}
	unknown, err := ReadHeader(bytes.NewReader(appendFrame(nil, 77, []byte("whatever"))))
	if err != nil || unknown.Kind != 77 {
		t.Errorf("an unknown kind is %+v, %v", unknown, err)
	}
}

// TestSecretsStay: what is the hosted side's alone is not sent.
func TestSecretsStay(t *testing.T) {
	h := aHeader
	h.Open.Space, h.Open.Via = "a-tenant", "another-client"
	if b := AppendHeader(nil, h); bytes.Contains(b, []byte("a-tenant")) || bytes.Contains(b, []byte("another-client")) {
		t.Errorf("%q", b)
	}
}

func TestStatus(t *testing.T) {
	for _, s := range []Status{
		{}, {Code: tunnel.Denied, Text: "rule 3"}, {Code: 1 << 40},
		{Resolved: netip.MustParseAddrPort("10.0.1.50:5432"), Bound: netip.MustParseAddrPort("[fd00::2]:40000")},
	} {
		b := AppendStatus(nil, s)
		r := bytes.NewReader(append(AppendGrease(nil, 1), append(b, 0xaa)...))
		got, err := ReadStatus(iotest.OneByteReader(r))
		if err != nil || got != s || r.Len() != 1 {
			t.Errorf("%+v came back as %+v with %d octets left, %v", s, got, r.Len(), err)
		}
		truncated(t, b, func(r io.Reader) error { _, err := ReadStatus(r); return err })
		if (s.Err() == nil) != (s.Code == tunnel.OK) {
			t.Errorf("%+v is the error %v", s, s.Err())
		}
	}
	if got, _ := ReadStatus(bytes.NewReader(AppendStatus(nil, Status{Code: 1, Text: strings.Repeat("x", 9999)}))); len(got.Text) != tunnel.MaxText {
		t.Errorf("a text of %d octets", len(got.Text))
	}
}

// TestUnknownFields: fields that are not known change nothing, wherever they stand.
func TestUnknownFields(t *testing.T) {
	var f block
	f.octets(GreaseType(5), []byte("?"))
	f.octets(headerAddress, appendAddrPort(nil, aHeader.Open.Addr))
	f.octets(99, nil)
	h, err := ReadHeader(bytes.NewReader(appendFrame(nil, uint64(TCP), f)))
	if err != nil || h.Open.Addr != aHeader.Open.Addr {
		t.Errorf("%+v, %v", h, err)
	}
	for _, m := range messages {
		var f block
		f.octets(GreaseType(1), []byte("?"))
		m.fields(&f)
		f.octets(GreaseType(2), []byte("?"))
		if got, err := ReadMessage(bytes.NewReader(appendFrame(nil, m.typ(), f))); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T came back as %+v, %v", m, got, err)
		}
	}
}

// fields puts fields of one type together.
func fields(typ uint64, count int, octets string) []byte {
	var f block
	for range count {
		f.octets(typ, []byte(octets))
	}
	return f
}

// TestBounds: what goes beyond a bound is malformed, and nothing else.
func TestBounds(t *testing.T) {
	header := func(b []byte) error { _, err := ReadHeader(bytes.NewReader(b)); return err }
	status := func(b []byte) error { _, err := ReadStatus(bytes.NewReader(b)); return err }
	message := func(b []byte) error { _, err := ReadMessage(bytes.NewReader(b)); return err }
	capsule := func(b []byte) error { _, err := ReadCapsule(bytes.NewReader(b), make([]byte, MaxPayload)); return err }
	long := func(n int) string { return strings.Repeat("x", n) }
	tcp := func(b []byte) []byte { return appendFrame(nil, uint64(TCP), b) }
	for _, c := range []struct {
		name string
		read func([]byte) error
		b    []byte
	}{
		{"a header without an address", header, tcp(nil)},
		{"a header of 4097 octets, of which none has come", header, AppendVarint([]byte{byte(TCP)}, MaxHeader+1)},
		{"a header of 2^62-1 octets", header, AppendVarint([]byte{byte(TCP)}, MaxVarint)},
		{"an unknown kind with too much", header, AppendVarint([]byte{33}, MaxHeader+1)},
		{"an address of 5 octets", header, tcp(fields(headerAddress, 1, "12345"))},
		{"an IPv4 address in an IPv6 address", header, tcp(fields(headerAddress, 1, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50"))},
		{"a long flow", header, tcp(fields(headerFlow, 1, long(MaxLabel+1)))},
		{"a long app", header, tcp(fields(headerApp, 1, long(MaxLabel+1)))},
		{"a long sandbox", header, tcp(fields(headerSandbox, 1, long(MaxLabel+1)))},
		{"a long name", header, tcp(fields(headerName, 1, long(MaxName+1)))},
		{"nine names", header, tcp(fields(headerName, 9, "a"))},
		{"an age of patience", header, tcp(fields(headerPatience, 1, string(AppendVarint(nil, 1<<30))))},
		{"patience that is no integer", header, tcp(fields(headerPatience, 1, "\x01\x01"))},
		{"a field that ends early", header, tcp([]byte{headerFlow, 5, 'x'})},
		{"a type that ends early", header, tcp([]byte{0xc0})},
		{"too many fields", header, tcp(fields(90, MaxFields+1, ""))},
		{"a long text", status, appendFrame(nil, TypeStatus, fields(statusText, 1, long(tunnel.MaxText+1)))},
		{"no status", status, bytes.Repeat(AppendGrease(nil, 0), maxBefore)},
		{"a message of 32769 octets", message, AppendVarint([]byte{typeHello}, MaxMessage+1)},
		{"seventeen versions", message, appendFrame(nil, typeHello, fields(1, MaxVersions+1, "\x01"))},
		{"long software", message, appendFrame(nil, typeHello, fields(3, 1, long(MaxSoftware+1)))},
		{"257 routes", message, appendFrame(nil, typeRoutes, fields(1, MaxRoutes+1, "\x00\x01."))},
		{"an empty route", message, appendFrame(nil, typeRoutes, fields(1, 1, ""))},
		{"a route without a suffix", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x00"))},
		{"a route that ends early", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x05."))},
		{"a prefix of 33 bits", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x01\x05\x0a\x00\x00\x00\x21"))},
		{"a prefix with more than its bits", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x01\x05\x0a\x01\x00\x00\x08"))},
		{"ports in the wrong order", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x01.\x02\x01"))},
		{"half a range of ports", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x01.\x02"))},
		{"a port of 70000", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x01.\x01"+string(AppendVarint(nil, 70000))))},
		{"17 ranges of ports", message, appendFrame(nil, typeRoutes, fields(1, 1, "\x00\x01."+strings.Repeat("\x01\x01", MaxPorts+1)))},
		{"a long request", message, appendFrame(nil, typeRenew, fields(1, 1, long(MaxCSR+1)))},
		{"a long chain", message, appendFrame(nil, typeRenewed, fields(1, 1, long(MaxChain+1)))},
		{"a drain of two days", message, appendFrame(nil, typeDrain, fields(5, 1, string(AppendVarint(nil, 2*86400_000))))},
		{"a capsule of 65516 octets", capsule, AppendVarint([]byte{0}, MaxCapsule+1)},
		{"an unknown capsule of 2^62-1 octets", capsule, AppendVarint([]byte{33}, MaxVarint)},
		{"a datagram of 65508 octets", capsule, AppendCapsuleHeader(nil, MaxPayload+1)},
	} {
		var e *tunnel.Error
		if err := c.read(c.b); !errors.As(err, &e) || e.Code != tunnel.Malformed {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLargest: what a sender makes of the largest values is read.
func TestLargest(t *testing.T) {
	h := aHeader
	h.Patience = time.Hour
	for _, s := range []*string{&h.Open.Flow, &h.Open.App, &h.Open.Sandbox} {
		*s = strings.Repeat("x", 1000)
	}
	h.Open.Names = nil
	for range 20 {
		h.Open.Names = append(h.Open.Names, strings.Repeat("n", MaxName))
	}
	got, err := ReadHeader(bytes.NewReader(AppendHeader(nil, h)))
	if err != nil || len(got.Open.Names) != tunnel.MaxNames || len(got.Open.App) != MaxLabel || got.Patience != MaxPatience {
		t.Errorf("%+v, %v", got, err)
	}
	var hello Hello
	for range MaxRoutes {
		hello.Routes = append(hello.Routes, Route{Suffix: strings.Repeat("s", 100), Ports: []Ports{{1, 65535}}})
	}
	if _, err := ReadMessage(bytes.NewReader(AppendMessage(nil, &hello))); err != nil {
		t.Error(err)
	}
}

func TestDatagram(t *testing.T) {
	for _, id := range []uint64{1, 61, 65, 16381, 1 << 40} {
		b := append(AppendDatagramHeader(nil, id), "payload"...)
		if len(b) != DatagramHeaderLen(id)+7 {
			t.Errorf("a header for stream %d of %d octets", id, len(b)-7)
		}
		stream, context, payload, ok := ParseDatagram(b)
		if stream != id || context != ContextPayload || string(payload) != "payload" || !ok {
			t.Errorf("stream %d, context %d, %q, %v", stream, context, payload, ok)
		}
	}
	for _, b := range []string{"", "\x40", "\x05", "\x05\x40"} {
		if _, _, _, ok := ParseDatagram([]byte(b)); ok {
			t.Errorf("%q is a datagram", b)
		}
	}
	if _, _, payload, ok := ParseDatagram([]byte("\x05\x00")); len(payload) != 0 || !ok {
		t.Error("an empty datagram is none")
	}
}

func TestCapsules(t *testing.T) {
	var b []byte
	sizes := []int{0, 1, 1472, MaxPayload}
	for _, size := range sizes {
		b = appendFrame(b, GreaseType(2), make([]byte, 100))       // unknown type
		b = appendFrame(b, CapsuleDatagram, []byte("\x02unknown")) // unknown context
		b = append(AppendCapsuleHeader(b, size), bytes.Repeat([]byte{7}, size)...)
	}
	r, buf := bytes.NewReader(b), make([]byte, MaxPayload)
	for _, size := range sizes {
		if n, err := ReadCapsule(r, buf); n != size || err != nil {
			t.Errorf("a capsule of %d octets has %d, %v", size, n, err)
		}
	}
	if _, err := ReadCapsule(r, buf); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	one := append(AppendCapsuleHeader(nil, 3), "abc"...)
	truncated(t, one, func(r io.Reader) error { _, err := ReadCapsule(r, buf); return err })
	truncated(t, appendFrame(nil, 77, []byte("abc")), func(r io.Reader) error {
		_, err := ReadCapsule(r, buf)
		return err
	})
}

func TestRoutes(t *testing.T) {
	for _, c := range []struct {
		name, to string
		route    Route
		long     int
		ok       bool
	}{
		{"db.internal.example.com", "10.0.0.1:5432", routes[0], 3, true},
		{"internal.example.com", "10.0.0.1:8500", routes[0], 3, true},
		{"internal.example.com", "10.0.0.1:80", routes[0], 0, false},
		{"notinternal.example.com", "10.0.0.1:5432", routes[0], 0, false},
		{"", "10.0.0.1:5432", routes[0], 0, false},
		{"", "10.255.0.1:1", routes[1], 8, true},
		{"x", "[::ffff:10.0.0.1]:1", routes[1], 8, true},
		{"x", "11.0.0.1:1", routes[1], 8, false},
		{"", "[fd12::1]:443", routes[2], 8, true},
		{"anything.example", "192.0.2.1:1", routes[3], 0, true},
		{"", "192.0.2.1:1", routes[3], 0, false},
		{"x", "192.0.2.1:1", Route{}, 0, false},
	} {
		long, ok := c.route.Covers(c.name, netip.MustParseAddrPort(c.to))
		if ok != c.ok || ok && long != c.long {
			t.Errorf("%+v covers %q %s: %d, %v", c.route, c.name, c.to, long, ok)
		}
	}
	// A route of a kind that is to come is skipped, the others count.
	var f block
	f.octets(1, []byte("\x09\x01?"))
	f.octets(1, appendRoute(nil, routes[0]))
	m, err := ReadMessage(bytes.NewReader(appendFrame(nil, typeRoutes, f)))
	if err != nil || !reflect.DeepEqual(m, &Routes{Routes: routes[:1]}) {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestGolden: the octets that docs/tunnel.md shows are those that this package makes.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("../../docs/tunnel.md")
	if err != nil {
		t.Fatal(err)
	}
	spec := strings.Join(strings.Fields(string(text)), "")
	for name, b := range map[string][]byte{
		"hello": AppendMessage(AppendVarint(nil, uint64(Control)), &Hello{
			Versions: []uint64{1}, Generation: 7, Software: "weir", Routes: []Route{{Suffix: "corp.example", Ports: []Ports{{5432, 5432}}}},
		}),
		"welcome":  AppendMessage(nil, &Welcome{Version: 1, Session: "a1b2", Space: "default", Client: "laptop"}),
		"drain":    AppendMessage(nil, messages[4]),
		"header":   AppendHeader(nil, aHeader),
		"status":   AppendStatus(nil, Status{Resolved: netip.MustParseAddrPort("10.0.1.50:5432")}),
		"denied":   AppendStatus(nil, Status{Code: tunnel.Denied, Text: "not allowed"}),
		"datagram": append(AppendDatagramHeader(nil, 5), "hi"...),
		"capsule":  append(AppendCapsuleHeader(nil, 2), "hi"...),
	} {
		if !strings.Contains(spec, hex.EncodeToString(b)) {
			t.Errorf("docs/tunnel.md does not show the %s: %x", name, b)
		}
	}
}
