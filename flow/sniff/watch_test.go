package sniff

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// watched feeds the pieces to a Watch and returns the hints of all its news, and its last status.
func watched(pieces ...string) (news []Hint, last Status) {
	var w Watch
	for _, p := range pieces {
		var h Hint
		if h, last = w.Feed([]byte(p)); last == Done {
			news = append(news, h)
		}
	}
	return news, last
}

// TestWatch is the table of how protocols turn to TLS. Each is also fed in one piece, in single octets, and cut in two at
// every octet.
func TestWatch(t *testing.T) {
	a := record(hello(sni("a.example")))
	b := record(hello(sni("b.example")))
	pieces := records(hello(sni("a.example")), 3)
	real := string(realHello(t, &tls.Config{ServerName: "a.example"}))
	wantA, wantB := tlsHint("a.example"), tlsHint("b.example")
	const ccs = "\x14\x03\x03\x00\x01\x01"
	for _, c := range []struct {
		name string
		in   []string
		want []Hint
	}{
		{"SMTP", []string{"EHLO x\r\n", "STARTTLS\r\n", real, "\x17\x03\x03\x00\x05xxxxx"}, []Hint{wantA}},
		{"IMAP", []string{"a001 STARTTLS\r\n", a}, []Hint{wantA}},
		{"POP3", []string{"STLS\r\n", a}, []Hint{wantA}},
		{"FTP", []string{"AUTH TLS\r\n", a}, []Hint{wantA}},
		{"LDAP", []string{"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037", a}, []Hint{wantA}},
		{"XMPP", []string{"<?xml version='1.0'?><stream:stream>", "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", a}, []Hint{wantA}},
		{"MySQL", []string{"\x20\x00\x00\x01\x85\xae\xff\x19\x00\x00\x00\x01\xff" + strings.Repeat("\x00", 23), a}, []Hint{wantA}},
		{"RDP", []string{"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", a}, []Hint{wantA}},
		{"hello in small records", []string{"STARTTLS\r\n", pieces}, []Hint{wantA}},
		{"hello after HelloRetryRequest", []string{ccs, b}, []Hint{wantB}},
		{"no name", []string{"STARTTLS\r\n", record(hello())}, []Hint{{Protocol: "tls"}}},
		{"image of a hello, then another", []string{"NOOP " + a + "\r\n", "STARTTLS\r\n", b}, []Hint{wantA, wantB}},
		{"beginning of a hello in plaintext", []string{"x\x16\x03\x16\x03\x01\x00", "\x16\x16\x03\x01", a}, []Hint{wantA}},
		{"two names", []string{"STARTTLS\r\n", record(hello(sni("a.example", "b.example"))), a}, []Hint{bad("tls", "two names in server_name")}},
		{"hello that does not parse", []string{"STARTTLS\r\n", a[:60] + strings.Repeat("x", 100)}, []Hint{bad("tls", "an extension is truncated")}},
		{"plaintext only", []string{"EHLO x\r\n", "MAIL FROM:<a@b>\r\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(how string, pieces ...string) {
				t.Helper()
				if got, _ := watched(pieces...); !reflect.DeepEqual(got, c.want) {
					t.Fatalf("%s:\n got %+v\nwant %+v", how, got, c.want)
				}
			}
			all := cat(c.in...)
			check("as sent", c.in...)
			check("in single octets", octets(all)...)
			if len(c.want) == 1 {
				for cut := range len(all) {
					check(fmt.Sprint("cut at ", cut), all[:cut], all[cut:])
				}
			}
		})
	}
}

// octets is s as a list of its octets.
func octets(s string) []string {
	all := make([]string, len(s))
	for i := range all {
		all[i] = s[i : i+1]
	}
	return all
}

// TestWatchHolds says when the caller must hold bytes, and when watching is over.
func TestWatchHolds(t *testing.T) {
	a, b := record(hello(sni("a.example"))), record(hello(sni("b.example")))
	var w Watch
	for _, step := range []struct {
		in     string
		status Status
		hint   Hint
	}{
		{"STARTTLS\r\n", More, Hint{}},
		{a[:3], More, Hint{}},
		{a[3:12], More, Hint{Protocol: "tls"}},
		{a[12:50], More, Hint{Protocol: "tls"}},
		{a[50:], Done, tlsHint("a.example")},
		{"\x17\x03\x03\x00\x01x", More, Hint{}},
		{a + b, Done, bad("tls", "two ClientHellos with two names")},
		{a, Unknown, Hint{}},
	} {
		hint, status := w.Feed([]byte(step.in))
		sameHint(t, fmt.Sprintf("%.20q", step.in), hint, status, step.hint, step.status)
	}
}

// TestWatchIsBounded says that plaintext ends the watch at MaxWatch octets, however they come, and that a hello that
// never ends is malformed.
func TestWatchIsBounded(t *testing.T) {
	a := record(hello(sni("a.example")))
	line := strings.Repeat("x", MaxWatch-1)
	long := record(hello(sni("a.example"), ext(21, strings.Repeat("\x00", 10000))))
	wantA := tlsHint("a.example")
	for name, c := range map[string]struct {
		in   []string
		want []Hint
		last Status
	}{
		"hello at the last octet":  {[]string{line, a}, []Hint{tlsHint("a.example")}, Done},
		"the same in one piece":    {[]string{line + a}, []Hint{tlsHint("a.example")}, Done},
		"hello one octet later":    {[]string{line, "x", a}, nil, Unknown},
		"the same in one piece, 1": {[]string{line + "x" + a}, nil, Unknown},
		"no plaintext counted twice": {[]string{line[:5000], "\x16\x03", line[:5000], "\x16", line[:5000], a},
			[]Hint{tlsHint("a.example")}, Done},
		"hellos are no plaintext": {[]string{long, long, long}, []Hint{wantA, wantA, wantA}, Done},
		"endless hello": {[]string{records("\x01\x00\xff\xf0\x03\x03"+strings.Repeat("x", 65000), 30)},
			[]Hint{bad("tls", "the claim is not complete within the first octets that are looked at")}, Done},
	} {
		got, last := watched(c.in...)
		if !reflect.DeepEqual(got, c.want) || last != c.last {
			t.Errorf("%s: %v %+v", name, last, got)
		}
	}
}
