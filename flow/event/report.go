package event

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"
)

// Bounds of a [Report].
const (
	// MaxRows is the number of rows a report keeps; what does not fit is added up in one more row, see [OtherRow].
	MaxRows = 4096

	// OtherRow is the Host of the row that holds everything beyond [MaxRows].
	OtherRow = "(other)"

	// maxReasons bounds the reasons counted apart, maxHost the octets of a Host that are kept.
	maxReasons = 64
	maxHost    = 256
)

// Row is what a run did with one destination.
type Row struct {
	// Host is the name or, without one, the address. Port is 0 where there is none.
	Host string `json:"host"`
	Port uint16 `json:"port"`

	// Protocol is "tcp", "udp", "icmp", or "dns" for questions that were not answered because of the policy.
	Protocol string `json:"protocol"`
	Route    string `json:"route"`

	// Verdict is "allow", "deny" or "would-deny"; Reason says why it is not "allow".
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"`

	// Connections counts flows (or questions), Sent and Received payload octets of those that have ended.
	Connections uint64 `json:"connections"`
	Sent        uint64 `json:"bytes_sent"`
	Received    uint64 `json:"bytes_received"`

	// First is when the first of them was judged, Process the base name of the program that opened it, if known.
	First   time.Time `json:"first"`
	Process string    `json:"process,omitempty"`
}

// Report is a [Sink] that adds events up in bounded memory. The zero value is ready.
type Report struct {
	// OnDeny, if set, is called from Emit once for each distinct denial of a flow or a question: host, port, protocol and
	// reason. It must be set before the first Emit, and must not block. Denials beyond [MaxRows] do not call it.
	OnDeny func(*Event)

	mu      sync.Mutex
	index   map[rowKey]int
	rows    []Row
	other   Row
	denials map[string]uint64
}

// rowKey is what makes two flows belong to one row. Only denials are told apart by reason.
type rowKey struct {
	host             string
	port             uint16
	protocol, route  string
	verdict, because string
}

// Emit implements [Sink]. It counts *[Connect], *[Close] (one that the policy caused is a denial too), and *[DNSQuery]
// when that was denied.
func (r *Report) Emit(e *Event) {
	first := false
	switch d := e.Details.(type) {
	case *Connect:
		process := ""
		if d.Process != nil {
			process = path.Base(strings.TrimSuffix(d.Process.Exe, " (deleted)"))
		}
		first = r.judged(Row{Host: hostOf(d.Hostname, d.Dst), Port: d.Dst.Port(), Protocol: d.Protocol, Route: d.Route,
			Verdict: d.Verdict, Reason: d.Reason, First: e.Time, Process: process})
	case *DNSQuery:
		if d.Verdict == "deny" {
			first = r.judged(Row{Host: clip(d.Hostname), Protocol: "dns", Route: d.Route, Verdict: d.Verdict, Reason: d.Reason, First: e.Time})
		}
	case *Close:
		r.ended(Row{Host: hostOf(d.Hostname, d.Dst), Port: d.Dst.Port(), Protocol: d.Protocol, Route: d.Route, Verdict: d.Verdict, First: e.Time},
			d.BytesSent, d.BytesReceived)
		if d.Close == "policy" {
			first = r.judged(Row{Host: hostOf(d.Hostname, d.Dst), Port: d.Dst.Port(), Protocol: d.Protocol, Route: d.Route, Verdict: "deny", Reason: d.Reason, First: e.Time})
		}
	}
	if first && r.OnDeny != nil {
		r.OnDeny(e)
	}
}

// judged counts one flow or question and reports whether it is the first of its kind that was denied.
func (r *Report) judged(row Row) (firstDenial bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if row.Verdict == "deny" {
		r.denied(row.Reason)
	}
	at := r.row(row)
	at.Connections++
	return at.Connections == 1 && row.Verdict == "deny" && at != &r.other
}

func (r *Report) ended(row Row, sent, received uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.row(row)
	at.Sent += sent
	at.Received += received
}

// row returns the row that like belongs to, which it becomes when there is none and room is left. The caller holds mu.
func (r *Report) row(like Row) *Row {
	key := rowKey{host: like.Host, port: like.Port, protocol: like.Protocol, route: like.Route, verdict: like.Verdict}
	if like.Verdict == "deny" {
		key.because = like.Reason
	}
	if i, ok := r.index[key]; ok {
		return &r.rows[i]
	}
	if len(r.rows) == MaxRows {
		if r.other.Host == "" {
			r.other = Row{Host: OtherRow, First: like.First}
		}
		return &r.other
	}
	if r.index == nil {
		r.index = make(map[rowKey]int)
	}
	r.index[key] = len(r.rows)
	r.rows = append(r.rows, like)
	return &r.rows[len(r.rows)-1]
}

func (r *Report) denied(reason string) {
	if r.denials == nil {
		r.denials = make(map[string]uint64)
	}
	if _, ok := r.denials[reason]; !ok && len(r.denials) >= maxReasons {
		reason = OtherRow
	}
	r.denials[reason]++
}

// Rows returns a copy of the rows in the order of their first event, with [OtherRow] last if there is one.
func (r *Report) Rows() []Row {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := append([]Row(nil), r.rows...)
	if r.other.Host != "" {
		rows = append(rows, r.other)
	}
	return rows
}

// Denials returns how many flows and questions were denied, by reason. It is exact, also beyond [MaxRows].
func (r *Report) Denials() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := make(map[string]uint64, len(r.denials))
	for reason, n := range r.denials {
		m[reason] = n
	}
	return m
}

// MarshalJSON encodes the report so that it can travel to another process: {"rows":[...],"denials":{...}}. Like a line of
// the log it holds printable characters only.
func (r *Report) MarshalJSON() ([]byte, error) {
	b := []byte(`{"rows":[`)
	for i, row := range r.Rows() {
		if i > 0 {
			b = append(b, ',')
		}
		b = row.AppendJSON(b)
	}
	b = append(b, `],"denials":{`...)
	for reason, n := range r.Denials() {
		b = appendUint(b, reason, n)
	}
	return append(b, '}', '}'), nil
}

// AppendJSON appends the row as one JSON object in printable characters and returns the longer slice.
func (row *Row) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "host", row.Host)
	b = appendUint(b, "port", uint64(row.Port))
	b = appendField(b, "protocol", row.Protocol)
	b = appendField(b, "route", row.Route)
	b = appendField(b, "verdict", row.Verdict)
	b = appendField(b, "reason", row.Reason)
	b = appendUint(b, "connections", row.Connections)
	b = appendUint(b, "bytes_sent", row.Sent)
	b = appendUint(b, "bytes_received", row.Received)
	b = append(appendName(b, "first"), '"')
	b = row.First.UTC().AppendFormat(b, timeLayout)
	b = append(b, '"')
	b = appendField(b, "process", row.Process)
	return append(b, '}')
}

// UnmarshalJSON replaces what the report holds by what MarshalJSON wrote. It refuses more than [MaxRows] rows, because
// the process that wrote them reads hostile input and the one that decodes them must not be flooded by it.
func (r *Report) UnmarshalJSON(b []byte) error {
	var in struct {
		Rows    []Row             `json:"rows"`
		Denials map[string]uint64 `json:"denials"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("decode report: %w", err)
	}
	if len(in.Rows) > MaxRows+1 || len(in.Denials) > maxReasons+1 {
		return fmt.Errorf("decode report: %d rows and %d reasons are too many", len(in.Rows), len(in.Denials))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index, r.rows, r.other, r.denials = nil, nil, Row{}, in.Denials
	for _, row := range in.Rows {
		if row.Host == OtherRow {
			r.other = row
			continue
		}
		if at := r.row(row); at != &r.other {
			*at = row
		}
	}
	return nil
}

// hostOf names a flow: by its name or, without one, by its address.
func hostOf(name string, dst netip.AddrPort) string {
	if name != "" || !dst.Addr().IsValid() {
		return clip(name)
	}
	return clip(dst.Addr().String())
}

func clip(s string) string {
	if len(s) > maxHost {
		return s[:maxHost]
	}
	return s
}
