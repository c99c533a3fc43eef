package event

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var noon = time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)

// examples has one event of each kind, and the variants of a line that differ in their fields.
func examples() []*Event {
	db := netip.MustParseAddrPort("10.0.1.50:5432")
	sandbox := func(flow string, d Details) *Event {
		return &Event{Time: noon, App: "postgres-mcp", Sandbox: "7f3a9c", Flow: flow, Details: d}
	}
	return []*Event{
		sandbox("7f3a9c-12", &Connect{Hostname: "staging-db.internal.example.com", NameSource: "dns",
			Names: []string{"staging-db.internal.example.com"}, Dst: db, Src: netip.MustParseAddrPort("10.77.0.2:51234"),
			Protocol: "tcp", Route: "tunnel", Verdict: "allow", Rule: "weir.yaml:19", Door: "netstack",
			Process: &Process{PID: 7, Exe: "/usr/bin/node", Args: []string{"node", "server.js"}}}),
		sandbox("7f3a9c-13", &Connect{Dst: netip.MustParseAddrPort("[2001:db8::1]:443"), Src: netip.MustParseAddrPort("[fd77::2]:40000"),
			Protocol: "udp", Route: "direct", Verdict: "deny", Rule: "builtin:default", Reason: "no-evidence", Door: "netstack",
			SNI: "api.example.com", ALPN: []string{"h3", "h2"}, ECH: true,
			Process: &Process{PID: 9, Exe: "/usr/bin/curl", Args: []string{"curl", "--token", "hunter2", "https://u:p@h.example/"}}}),
		{Time: noon, Details: &Connect{Hostname: "www.example.com", NameSource: "http-host", HTTPHost: "www.example.com",
			Dst: netip.MustParseAddrPort("192.0.2.7:80"), Src: netip.MustParseAddrPort("192.0.2.1:1024"), Protocol: "tcp"}},
		sandbox("7f3a9c-12", &Close{Hostname: "staging-db.internal.example.com", Dst: db, Protocol: "tcp", Route: "tunnel", Verdict: "allow",
			BytesSent: 1234, BytesReceived: 1 << 40, Duration: 1500*time.Millisecond + 999*time.Microsecond, Close: "fin"}),
		sandbox("7f3a9c-13", &Close{Dst: db, Protocol: "tcp", Route: "direct", Verdict: "allow", Close: "policy", Rule: "weir.yaml:7", Reason: "rule"}),
		sandbox("7f3a9c-14", &Close{Dst: db, Protocol: "tcp", Route: "direct", Verdict: "allow", Close: "error", Error: "read: input/output error"}),
		sandbox("7f3a9c-15", &Connect{Dst: netip.MustParseAddrPort("10.77.0.2:8080"), Src: netip.MustParseAddrPort("127.0.0.1:50000"), Protocol: "tcp",
			Route: "direct", Verdict: "allow", Rule: "flag:2", Door: "netstack", Inbound: true}),
		sandbox("", &DNSQuery{Hostname: "api.example.com", QType: "A", Server: "10.77.0.1:53", RCode: "NOERROR",
			Answers: []string{"cdn.example.net", "192.0.2.1"}, Route: "direct", Verdict: "allow", Rule: "flag:1", Duration: 12 * time.Millisecond}),
		sandbox("", &DNSQuery{Hostname: "evil.example", QType: "AAAA", Server: "[fd77::1]:53", RCode: "NXDOMAIN", Route: "direct",
			Verdict: "deny", Rule: "builtin:default", Reason: "dns-blocked"}),
		sandbox("", &SandboxStart{Command: []string{"npx", "-y", "server", "--api-key=abc"}, Door: "netstack", Link: "tap",
			Policy: "sha256:9f86d081", Mode: "enforce", Held: []string{"seccomp", "landlock:7"}}),
		sandbox("", &SandboxExit{Command: []string{"npx"}, Door: "netstack", Link: "tap", Policy: "sha256:9f86d081", Mode: "enforce",
			Status: 137, Duration: time.Minute}),
		sandbox("", &Alert{What: "first-seen", Subject: "new.example.com"}),
		{Time: noon, Details: &Tunnel{Up: true, Client: "default/laptop", Transport: "quic", Remote: "192.0.2.7:51820", Session: "a1b2c3d4e5f6"}},
		{Time: noon, Details: &Tunnel{Client: "default/laptop", Transport: "quic", Remote: "192.0.2.7:51820", Session: "a1b2c3d4e5f6", Reason: "tunnel lost"}},
		sandbox("", &Dropped{What: "events", Count: 3, ByKind: []KindCount{{KindConnect, 2}, {KindClose, 1}}}),
		sandbox("", &Dropped{What: "packets", Count: 9}),
		{Time: noon, Kind: "of-a-later-version", App: "a", Sandbox: "s"},
	}
}

func TestLines(t *testing.T) {
	var got strings.Builder
	for _, e := range examples() {
		got.Write(e.AppendJSON(nil))
		got.WriteByte('\n')
	}
	const golden = "testdata/lines.jsonl"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("lines differ from %s (-want +got):\n%s", golden, diff)
	}
}

// The contract's example, with its line breaks taken out, is what the first example encodes to.
func TestContractExample(t *testing.T) {
	const want = `{"time":"2026-11-21T10:00:00.123456Z","event":"network-connect","app":"postgres-mcp","sandbox":"7f3a9c","flow":"7f3a9c-12",` +
		`"details":{"hostname":"staging-db.internal.example.com","name_source":"dns","names":["staging-db.internal.example.com"],` +
		`"dest_ip":"10.0.1.50","dest_port":5432,"src_ip":"10.77.0.2","src_port":51234,"protocol":"tcp","route":"tunnel",` +
		`"verdict":"allow","rule":"weir.yaml:19","reason":"","door":"netstack","sni":"","http_host":"","alpn":[],"ech":false,` +
		`"process":{"pid":7,"exe":"/usr/bin/node","args":["node","server.js"]}}}`
	if got := string(examples()[0].AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestParseReadsWhatWasWritten(t *testing.T) {
	for _, e := range examples() {
		line := e.AppendJSON(nil)
		got, err := Parse(line)
		if err != nil {
			t.Errorf("Parse(%s): %v", line, err)
			continue
		}
		if again := got.AppendJSON(nil); string(again) != string(line) {
			t.Errorf("written, read, written:\n got %s\nwant %s", again, line)
		}
	}
	e := examples()[0]
	got, err := Parse(e.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	e.Kind, e.Time = KindConnect, e.Time.Truncate(time.Microsecond)
	if diff := cmp.Diff(e, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestParseErrors(t *testing.T) {
	for _, line := range []string{``, `{`, `[]`, `{}`, `{"event":""}`, `{"event":"network-connect","details":[]}`,
		`{"event":"network-connect","details":{"dest_ip":"x"}}`, `{"event":"network-connect","details":{"dest_port":70000}}`,
		`{"event":"network-connect","details":{"src_ip":"x"}}`} {
		if e, err := Parse([]byte(line)); err == nil {
			t.Errorf("Parse(%s) = %+v, want an error", line, e)
		}
	}
}

func TestHostileStrings(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"newline", "a\nb", `a\u000ab`},
		{"quote and backslash", `a"b\c`, `a\"b\\c`},
		{"terminal title", "\x1b]0;owned\x07", `\u001b]0;owned\u0007`},
		{"nul and del", "\x00\x7f", `\u0000\u007f`},
		{"c1 as utf-8", "\u009b31m", `\u009b31m`},
		{"c1 as an octet", "\x9b31m", `\\x9b31m`},
		{"line separators", "\u2028\u2029\u0085", `\u2028\u2029\u0085`},
		{"right-to-left override", "exe.\u202egnp", `exe.\u202egnp`},
		{"isolates and marks", "\u2066\u2069\u200e\u061c", `\u2066\u2069\u200e\u061c`},
		{"zero width and bom", "\u200b\ufeff", `\u200b\ufeff`},
		{"tag characters", "\U000e0041", `\udb40\udc41`},
		{"broken utf-8", "a\xff\xc0\xafb\xe2\x80", `a\\xff\\xc0\\xafb\\xe2\\x80`},
		{"surrogate half in utf-8", "\xed\xa0\x80", `\\xed\\xa0\\x80`},
		{"ordinary letters", "bücher.example 例え 😀", "bücher.example 例え 😀"},
		{"replacement character", "\ufffd", "\ufffd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := &Event{Time: noon, App: test.in, Details: &Alert{}}
			line := string(e.AppendJSON(nil))
			if want := `"app":"` + test.want + `","sandbox"`; !strings.Contains(line, want) {
				t.Errorf("got  %s\nwant %s", line, want)
			}
			checkLine(t, []byte(line))
		})
	}
}

func TestLongStringsAreCut(t *testing.T) {
	long := func(unit string) string { return strings.Repeat(unit, 200_000/len(unit)) }
	for _, unit := range []string{"a", "\x00", "\xff", "\u202e", "\"", "é", "\U000e0041", "a\x01"} {
		list := []string{long(unit), long(unit)}
		for range 50_000 {
			list = append(list, unit)
		}
		s := long(unit)
		for _, d := range []Details{
			&Connect{Hostname: s, NameSource: s, Names: list, Protocol: s, Route: s, Verdict: s, Rule: s, Reason: s, Door: s, SNI: s,
				HTTPHost: s, ALPN: list, Process: &Process{Exe: s, Args: list}, Dst: netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(s), 1)},
			&Close{Hostname: s, Protocol: s, Route: s, Verdict: s, Close: s, Rule: s, Reason: s, Error: s},
			&DNSQuery{Hostname: s, QType: s, Server: s, RCode: s, Answers: list, Route: s, Verdict: s, Rule: s, Reason: s},
			&SandboxStart{Command: list, Door: s, Link: s, Policy: s, Mode: s, Held: list},
			&SandboxExit{Command: list, Door: s, Link: s, Policy: s, Mode: s},
			&Alert{What: s, Subject: s},
			&Dropped{What: s, ByKind: make([]KindCount, 1000)},
		} {
			line := (&Event{Time: noon, Kind: Kind(s), App: s, Sandbox: s, Flow: s, Details: d}).AppendJSON(nil)
			checkLine(t, line)
		}
	}
}

func TestCutMarker(t *testing.T) {
	e := &Event{Time: noon, Details: &Alert{What: strings.Repeat("a", maxString), Subject: strings.Repeat("b", maxString+5)}}
	line := string(e.AppendJSON(nil))
	if !strings.Contains(line, strings.Repeat("a", maxString)+`"`) {
		t.Error("a string of the maximal length was cut")
	}
	if !strings.Contains(line, strings.Repeat("b", maxString)+`...[+5 bytes]"`) {
		t.Error("no marker after a string that is too long")
	}
	d := &DNSQuery{}
	for range 20_000 {
		d.Answers = append(d.Answers, "192.0.2.1")
	}
	got, err := Parse((&Event{Time: noon, Details: d}).AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	answers := got.Details.(*DNSQuery).Answers
	if last := answers[len(answers)-1]; last != "...[+18639 more]" || len(answers) != 20_000-18639+1 {
		t.Errorf("%d answers, the last is %q", len(answers), last)
	}
}

// checkLine fails the test unless line is what every line must be.
func checkLine(t *testing.T, line []byte) {
	t.Helper()
	if len(line) > MaxLine {
		t.Errorf("line of %d octets", len(line))
	}
	if !json.Valid(line) {
		t.Errorf("not JSON: %q", line)
	}
	if !utf8.Valid(line) {
		t.Errorf("not UTF-8: %q", line)
	}
	for _, r := range string(line) {
		if hidden(r) {
			t.Errorf("raw %U in %q", r, line)
			break
		}
	}
}

func FuzzEvent(f *testing.F) {
	f.Add("app", "host.example", "--token=x\n", []byte{10, 0, 0, 1}, uint16(443), int64(0))
	f.Add("\x1b[31m", "a\u202eb", "https://u:p@h/?key=1", []byte(nil), uint16(0), int64(-1))
	f.Add("\xff\xfe", "\u2028\x00\x7f\u009b", "Authorization: Bearer x", []byte("0123456789abcdef"), uint16(65535), int64(1)<<62)
	f.Fuzz(func(t *testing.T, a, b, c string, ip []byte, port uint16, n int64) {
		addr, _ := netip.AddrFromSlice(ip)
		dst := netip.AddrPortFrom(addr.WithZone(a), port)
		list := []string{a, b, c}
		for _, d := range []Details{
			&Connect{Hostname: a, NameSource: b, Names: list, Dst: dst, Src: dst, Protocol: c, Route: a, Verdict: b, Rule: c, Reason: a,
				Door: b, SNI: c, HTTPHost: a, ALPN: list, ECH: n > 0, Process: &Process{PID: int(n), Exe: c, Args: list}},
			&Close{Hostname: a, Dst: dst, Protocol: b, Route: c, BytesSent: uint64(n), BytesReceived: uint64(n), Duration: time.Duration(n), Close: a,
				Rule: b, Reason: c, Error: a},
			&DNSQuery{Hostname: a, QType: b, Server: c, RCode: a, Answers: list, Route: b, Verdict: c, Rule: a, Reason: b, Duration: time.Duration(n)},
			&SandboxStart{Command: list, Door: a, Link: b, Policy: c, Mode: a, Held: list},
			&SandboxExit{Command: list, Door: a, Link: b, Policy: c, Mode: a, Status: int(n), Duration: time.Duration(n)},
			&Alert{What: a, Subject: b},
			&Dropped{What: a, Count: uint64(n), ByKind: []KindCount{{Kind(b), uint64(n)}}},
		} {
			e := &Event{Time: noon.Add(time.Duration(n)), App: a, Sandbox: b, Flow: c, Details: d}
			line := e.AppendJSON(nil)
			checkLine(t, line)
			parsed, err := Parse(line)
			if err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if utf8.ValidString(a) && len(a) < 100 && parsed.App != a {
				t.Fatalf("%q came back as %q", a, parsed.App)
			}
			checkReport(t, e)
		}
	})
}

// checkReport sends one event through the other exits: the report's JSON and the table.
func checkReport(t *testing.T, e *Event) {
	t.Helper()
	var r Report
	r.Emit(e)
	b, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	checkLine(t, b)
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var table strings.Builder
	if err := WriteTable(&table, r.Rows(), TableOptions{Width: 80}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(table.String(), "\n"), "\n")
	if len(r.Rows()) == 1 && len(lines) != 2 {
		t.Fatalf("one row, %d lines: %q", len(lines), table.String())
	}
	for _, line := range lines {
		if Escape(line) != line {
			t.Fatalf("not escaped: %q", line)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := examples()[0]
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}
