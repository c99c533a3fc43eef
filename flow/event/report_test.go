package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	var denied []string
	r := Report{OnDeny: func(e *Event) { denied = append(denied, fmt.Sprintf("%s %T", e.Flow, e.Details)) }}
	at := func(second int) time.Time { return noon.Truncate(time.Second).Add(time.Duration(second) * time.Second) }
	api := netip.MustParseAddrPort("192.0.2.1:443")
	for i, e := range []*Event{
		{Flow: "1", Details: &Connect{Hostname: "api.example", Dst: api, Protocol: "tcp", Route: "direct", Verdict: "allow",
			Process: &Process{Exe: "/usr/bin/node (deleted)"}}},
		{Flow: "2", Details: &Connect{Hostname: "api.example", Dst: api, Protocol: "tcp", Route: "direct", Verdict: "allow"}},
		{Flow: "3", Details: &Connect{Dst: api, Protocol: "tcp", Route: "direct", Verdict: "deny", Reason: "default"}},
		{Flow: "4", Details: &Connect{Dst: api, Protocol: "tcp", Route: "direct", Verdict: "deny", Reason: "default"}},
		{Flow: "5", Details: &Connect{Dst: api, Protocol: "tcp", Route: "direct", Verdict: "deny", Reason: "guard"}},
		{Flow: "6", Details: &DNSQuery{Hostname: "evil.example", QType: "A", Verdict: "deny", Reason: "dns-blocked", Route: "direct"}},
		{Flow: "7", Details: &DNSQuery{Hostname: "evil.example", QType: "AAAA", Verdict: "deny", Reason: "dns-blocked", Route: "direct"}},
		{Flow: "8", Details: &DNSQuery{Hostname: "api.example", Verdict: "allow"}},
		{Flow: "9", Details: &Connect{Hostname: "cdn.example", Dst: api, Protocol: "udp", Route: "tunnel", Verdict: "would-deny", Reason: "default"}},
		{Flow: "1", Details: &Close{Hostname: "api.example", Dst: api, Protocol: "tcp", Route: "direct", Verdict: "allow", BytesSent: 10, BytesReceived: 20}},
		{Flow: "9", Details: &Close{Hostname: "cdn.example", Dst: api, Protocol: "udp", Route: "tunnel", Verdict: "would-deny", BytesSent: 5}},
		{Details: &SandboxStart{}},
	} {
		e.Time = at(i)
		r.Emit(e)
	}
	want := []Row{
		{Host: "api.example", Port: 443, Protocol: "tcp", Route: "direct", Verdict: "allow", Connections: 2, Sent: 10, Received: 20, First: at(0), Process: "node"},
		{Host: "192.0.2.1", Port: 443, Protocol: "tcp", Route: "direct", Verdict: "deny", Reason: "default", Connections: 2, First: at(2)},
		{Host: "192.0.2.1", Port: 443, Protocol: "tcp", Route: "direct", Verdict: "deny", Reason: "guard", Connections: 1, First: at(4)},
		{Host: "evil.example", Protocol: "dns", Route: "direct", Verdict: "deny", Reason: "dns-blocked", Connections: 2, First: at(5)},
		{Host: "cdn.example", Port: 443, Protocol: "udp", Route: "tunnel", Verdict: "would-deny", Reason: "default", Connections: 1, Sent: 5, First: at(8)},
	}
	if diff := cmp.Diff(want, r.Rows()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]uint64{"default": 2, "guard": 1, "dns-blocked": 2}, r.Denials()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"3 *event.Connect", "5 *event.Connect", "6 *event.DNSQuery"}, denied); diff != "" {
		t.Error(diff)
	}

	b, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	var travelled Report
	if err := json.Unmarshal(b, &travelled); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Rows(), travelled.Rows()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(r.Denials(), travelled.Denials()); diff != "" {
		t.Error(diff)
	}
	travelled.Emit(&Event{Details: &Connect{Hostname: "api.example", Dst: api, Protocol: "tcp", Route: "direct", Verdict: "allow"}})
	if got := travelled.Rows()[0].Connections; got != 3 {
		t.Errorf("after travelling the first row counts %d", got)
	}
}

func TestReportIsBounded(t *testing.T) {
	calls := 0
	noon := noon.Truncate(time.Second)
	r := Report{OnDeny: func(*Event) { calls++ }}
	const flows = MaxRows + 1000
	for i := range flows {
		r.Emit(&Event{Time: noon, Details: &Connect{Hostname: fmt.Sprintf("%d.example", i), Verdict: "deny", Reason: fmt.Sprint("r", i%100)}})
	}
	r.Emit(&Event{Details: &Close{Hostname: "unknown.example", BytesSent: 7}})
	rows := r.Rows()
	last := rows[len(rows)-1]
	if len(rows) != MaxRows+1 || last.Host != OtherRow || last.Connections != 1000 || last.Sent != 7 || calls != MaxRows {
		t.Errorf("%d rows, last %+v, %d calls", len(rows), last, calls)
	}
	total := uint64(0)
	for _, n := range r.Denials() {
		total += n
	}
	if len(r.Denials()) != maxReasons+1 || total != flows {
		t.Errorf("%d reasons, %d denials", len(r.Denials()), total)
	}
	b, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rows[MaxRows-1:], back.Rows()[MaxRows-1:]); diff != "" {
		t.Error(diff)
	}
}

func TestReportRefusesTooMuch(t *testing.T) {
	many := `{"rows":[` + strings.TrimSuffix(strings.Repeat(`{},`, MaxRows+2), ",") + `]}`
	for _, in := range []string{many, `{"rows":{}}`, `{"rows":[{"port":70000}]}`} {
		var r Report
		if err := r.UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%.40s... is taken", in)
		}
	}
}

func TestWriteTable(t *testing.T) {
	rows := []Row{
		{Host: "api.github.example", Port: 443, Protocol: "tcp", Route: "direct", Verdict: "allow", Connections: 12, Sent: 999, Received: 5 << 20},
		{Host: "evil\x1b[2J\u202e.example\n", Port: 0, Protocol: "dns", Route: "direct", Verdict: "deny", Reason: "dns-blocked", Connections: 1},
		{Host: "a-very-long-host-name.in-some-region.example.com", Port: 8443, Protocol: "udp", Route: "tunnel:lab", Verdict: "would-deny", Reason: "default",
			Connections: 1000000, Sent: 1 << 62, Received: 1023},
	}
	tests := []struct {
		name string
		opts TableOptions
		want string
	}{
		{"plain", TableOptions{}, `
HOST                                              PORT  PROTO  ROUTE         CONNS     SENT  RECEIVED  VERDICT
api.github.example                                 443  tcp    direct           12    999 B   5.0 MiB  allow
evil\u001b[2J\u202e.example\u000a                    -  dns    deny              1      0 B       0 B  deny (dns-blocked)
a-very-long-host-name.in-some-region.example.com  8443  udp    tunnel:lab  1000000  4.0 EiB    1023 B  would-deny (default)
`},
		{"narrow", TableOptions{Width: 100}, `
HOST                       PORT  PROTO  ROUTE         CONNS     SENT  RECEIVED  VERDICT
api.github.example          443  tcp    direct           12    999 B   5.0 MiB  allow
...2J\u202e.example\u000a     -  dns    deny              1      0 B       0 B  deny (dns-blocked)
...ome-region.example.com  8443  udp    tunnel:lab  1000000  4.0 EiB    1023 B  would-deny (default)
`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b strings.Builder
			if err := WriteTable(&b, rows, test.opts); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("color", func(t *testing.T) {
		var b strings.Builder
		if err := WriteTable(&b, rows[:1], TableOptions{Color: true}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(b.String(), "  \x1b[32mallow\x1b[0m\n") {
			t.Errorf("%q", b.String())
		}
	})
	t.Run("no rows", func(t *testing.T) {
		var b strings.Builder
		if err := WriteTable(&b, nil, TableOptions{}); err != nil || b.Len() > 0 {
			t.Errorf("%q, %v", b.String(), err)
		}
	})
	t.Run("broken writer", func(t *testing.T) {
		if err := WriteTable(brokenWriter{}, rows, TableOptions{}); !errors.Is(err, errBroken) {
			t.Error(err)
		}
	})
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
