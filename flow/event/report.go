package event

import (
	"io"
	"time"
)

// MaxRows bounds a [Report]; what does not fit is added up in one row whose Host is [OtherRow].
const MaxRows = 4096

// OtherRow is the Host of the row that holds everything beyond [MaxRows].
const OtherRow = "(other)"

// Row is what a run did with one destination.
type Row struct {
	Host        string    `json:"host"`
	Port        uint16    `json:"port"`
	Protocol    string    `json:"protocol"` // "tcp", "udp", "icmp", or "dns" for questions that were denied
	Route       string    `json:"route"`
	Verdict     string    `json:"verdict"`
	Reason      string    `json:"reason,omitempty"`
	Connections uint64    `json:"connections"`
	Sent        uint64    `json:"bytes_sent"`
	Received    uint64    `json:"bytes_received"`
	First       time.Time `json:"first"`
	Process     string    `json:"process,omitempty"`
}

// Report is a [Sink] that adds events up, in bounded memory. The zero value is ready.
type Report struct {
	// OnDeny, if set, is called once for each distinct denial (host, port, protocol, reason), from Emit.
	OnDeny func(*Event)
}

// Emit implements [Sink].
func (r *Report) Emit(e *Event) {}

// Rows returns the rows, in the order of their first event.
func (r *Report) Rows() []Row { return nil }

// Denials returns how many flows and questions were denied, by reason.
func (r *Report) Denials() map[string]uint64 { return nil }

// MarshalJSON encodes the report, so that it can travel to another process.
func (r *Report) MarshalJSON() ([]byte, error) { return nil, nil }

// UnmarshalJSON decodes what MarshalJSON wrote.
func (r *Report) UnmarshalJSON(b []byte) error { return nil }

// TableOptions say how a table looks.
type TableOptions struct {
	// Color allows ANSI colours; Width is the terminal's width in columns, 0 for no limit.
	Color bool
	Width int
}

// WriteTable writes the rows as an aligned table for people, with every string escaped.
func WriteTable(w io.Writer, rows []Row, opts TableOptions) error { return nil }
