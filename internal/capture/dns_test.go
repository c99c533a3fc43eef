package capture

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
)

var (
	asker    = netip.MustParseAddrPort("10.77.0.2:41000")
	resolver = netip.MustParseAddrPort("192.0.2.53:53")
)

func TestQuestions(t *testing.T) {
	ask := func(b []byte) []byte { return udpPacket(asker, resolver, b) }
	tell := func(b []byte) []byte { return udpPacket(resolver, asker, b) }
	question := dnsQuestion(7, "API.example.", dns.TypeA)
	answer := dnsAnswer(7, "api.example.", dns.TypeA, "api.example. 60 IN CNAME cdn.example.", "cdn.example. 60 IN A 192.0.2.1")
	two := append(dnsQuestion(7, "a.example.", dns.TypeA), dnsQuestion(7, "b.example.", dns.TypeA)[12:]...)
	two[5] = 2
	crowd := slices.Concat(question, bytes.Repeat(dnsQuestion(7, "b.example.", dns.TypeA)[12:], maxQuestionsPerMessage))
	crowd[5] = maxQuestionsPerMessage + 1
	const asked = "dns A api.example 192.0.2.53:53"
	const answered = asked + " NOERROR cdn.example 192.0.2.1"
	mdns := netip.MustParseAddrPort("224.0.0.251:5353")
	tests := []struct {
		name    string
		packets [][]byte
		want    []string
	}{
		{"question and answer", [][]byte{ask(question), tell(answer)}, []string{answered}},
		{"no answer", [][]byte{ask(question)}, []string{asked}},
		{"sent again, answered twice", [][]byte{ask(question), ask(question), tell(answer), tell(answer)}, []string{answered}},
		{"answer only", [][]byte{tell(answer)}, []string{answered}},
		{"answer seen first", [][]byte{tell(answer), ask(question)}, []string{answered}},
		{"question seen again after its answer", [][]byte{ask(question), tell(answer), ask(question)}, []string{answered}},
		{"no such name", [][]byte{ask(question), tell(rcode(dnsAnswer(7, "api.example.", dns.TypeA), 3))}, []string{asked + " NXDOMAIN"}},
		{"other answers", [][]byte{tell(dnsAnswer(1, "x.example.", dns.TypeANY, "x.example. 1 IN PTR p.example.", "x.example. 1 IN MX 1 m.example.",
			"x.example. 1 IN SRV 1 1 1 s.example.", "x.example. 1 IN AAAA 2001:db8::1", "x.example. 1 IN TXT hidden"))},
			[]string{"dns ANY x.example 192.0.2.53:53 NOERROR p.example m.example s.example 2001:db8::1"}},
		{"two questions", [][]byte{ask(two)}, []string{"dns A a.example 192.0.2.53:53", "dns A b.example 192.0.2.53:53"}},
		{"too many questions", [][]byte{ask(crowd)}, []string{"udp 10.77.0.2:41000 > 192.0.2.53:53 none"}},
		{"cut off behind the question", [][]byte{tell(answer[:len(question)+5])}, []string{asked + " NOERROR"}},
		{"multicast", [][]byte{udpPacket(netip.AddrPortFrom(asker.Addr(), 5353), mdns, dnsQuestion(0, "_ipp._tcp.local.", dns.TypePTR))},
			[]string{"dns PTR _ipp._tcp.local 224.0.0.251:5353"}},
		{"the root", [][]byte{ask(dnsQuestion(1, ".", dns.TypeNS))}, []string{"dns NS . 192.0.2.53:53"}},
		{"no DNS on its port", [][]byte{ask([]byte("hello, this is something else"))}, []string{"udp 10.77.0.2:41000 > 192.0.2.53:53 none"}},
		{"QUIC on its port", [][]byte{ask(quicDatagrams(t)[0]), ask(quicDatagrams(t)[1])}, []string{"udp 10.77.0.2:41000 > 192.0.2.53:53 quic-sni quic.example"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, read(t, rawIP(tt.packets...)), tt.want...) })
	}
}

// TestAskedAgain asks the same question with the same ID after a while.
func TestAskedAgain(t *testing.T) {
	p := udpPacket(asker, resolver, dnsQuestion(7, "api.example.", dns.TypeA))
	const line = "dns A api.example 192.0.2.53:53"
	wantLines(t, read(t, spaced(askAgain/2, p, p)), line)
	wantLines(t, read(t, spaced(askAgain, p, p)), line, line)
}

func rcode(message []byte, code byte) []byte {
	message[3] |= code
	return message
}

func TestDNSOverTCP(t *testing.T) {
	frame := func(b []byte) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(b)))) + string(b) }
	q1, q2 := frame(dnsQuestion(1, "a.example.", dns.TypeA)), frame(dnsQuestion(2, "b.example.", dns.TypeA))
	a1 := frame(dnsAnswer(1, "a.example.", dns.TypeA, "a.example. 60 IN A 192.0.2.1"))
	answer := tcpPacket(resolver, asker, serverISN+1, isn+1, "A", a1)
	const line1, line2 = "dns A a.example 192.0.2.53:53 NOERROR 192.0.2.1", "dns A b.example 192.0.2.53:53"

	t.Run("two questions", func(t *testing.T) {
		wantLines(t, read(t, rawIP(append(talk(asker, resolver, q1+q2), answer)...)), line1, line2)
	})
	t.Run("cut anywhere", func(t *testing.T) {
		both := q1 + q2
		for n := range both {
			wantLines(t, read(t, rawIP(append(talk(asker, resolver, both[:n], both[n:]), answer)...)), line1, line2)
		}
	})
	t.Run("http on its port", func(t *testing.T) {
		wantLines(t, read(t, rawIP(talk(asker, resolver, httpHead[:5], httpHead[5:])...)), "tcp 10.77.0.2:41000 > 192.0.2.53:53 http-host api.example")
	})
	t.Run("http on its port is known at once", func(t *testing.T) {
		got := read(t, rawIP(append(talk(asker, resolver, httpHead), talk(client, server, httpHead)...)...))
		if len(got) != 2 || got[0] != "tcp 10.77.0.2:41000 > 192.0.2.53:53 http-host api.example" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("tls on its port", func(t *testing.T) {
		wantLines(t, read(t, rawIP(talk(asker, resolver, clientHello("api.example"))...)), "tcp 10.77.0.2:41000 > 192.0.2.53:53 sni api.example")
	})
}

func TestPresentation(t *testing.T) {
	tests := []struct{ wire, want string }{
		{"\x03API\x07example\x00", "api.example"},
		{"\x00", "."},
		{"\x05a b@c\x00", "a b@c"},
		{"\x03a.b\x01c\x00", `a\.b.c`},
		{"\x03a\\b\x00", `a\\b`},
		{"\x02a.\x00", `a\.`},
		{"\x03a\x00\xff\x00", `a\000\255`},
		{"\x05\x1b[31m\x00", `\027[31m`},
	}
	for _, tt := range tests {
		name, _, err := dns.UnpackDomainName([]byte(tt.wire), 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := presentation(name); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.wire, got, tt.want)
		}
	}
}

// TestQuestionBounds asks more than is remembered: every question is reported all the same.
func TestQuestionBounds(t *testing.T) {
	var packets [][]byte
	const n = MaxQuestions + 100
	for i := range uint16(n) {
		packets = append(packets, udpPacket(asker, resolver, dnsQuestion(i, "api.example.", dns.TypeA)))
	}
	got := read(t, rawIP(packets...))
	if len(got) != n {
		t.Errorf("%d questions were reported, want %d", len(got), n)
	}
}

// TestEventFields looks at what the short lines of the other tests leave out.
func TestEventFields(t *testing.T) {
	var all recorder
	packets := [][]byte{
		udpPacket(asker, resolver, dnsQuestion(7, "api.example.", dns.TypeA)),
		udpPacket(resolver, asker, dnsAnswer(7, "api.example.", dns.TypeA, "api.example. 60 IN A 192.0.2.1")),
	}
	packets = append(packets, talk(client, server, clientHello("api.example"))...)
	packets = append(packets, talk(client6, server6, strings.ReplaceAll(httpHead, "api.example", "api.example:8080"))...)
	if _, err := Read(bytes.NewReader(rawIP(packets...)), &all); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"time":"2026-11-21T10:00:00.123456Z","event":"dns-query"`,
		`"server":"192.0.2.53:53","rcode":"NOERROR","answers":["192.0.2.1"]`, `"duration_ms":1}`,
		`{"time":"2026-11-21T10:00:00.125456Z","event":"network-connect"`, `"flow":"1"`, `"hostname":"api.example","name_source":"sni","names":["api.example"],` +
			`"dest_ip":"192.0.2.1","dest_port":443,"src_ip":"10.77.0.2","src_port":40000,"protocol":"tcp"`, `"sni":"api.example"`, `"alpn":["h2"]`,
		`"flow":"2"`, `"http_host":"api.example:8080"`,
	}
	text := all.String()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %s in\n%s", w, text)
		}
	}
	if strings.Contains(text, `"verdict"`) {
		t.Errorf("a verdict in\n%s", text)
	}
}

// recorder keeps the lines of the event log.
type recorder struct{ strings.Builder }

func (r *recorder) Emit(e *event.Event) { r.Write(append(e.AppendJSON(nil), '\n')) }
