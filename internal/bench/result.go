//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Result is what a run has found. Its JSON is that of the contract, section 8: machine, then rows; the rest is added.
type Result struct {
	Machine  Machine    `json:"machine"`
	Rounds   int        `json:"rounds"`
	Subjects []*Subject `json:"subjects"`
	Rows     []*Row     `json:"rows"`
	// Targets compare the doors with what they should reach.
	Targets []Target `json:"targets"`
	// Flows says for each weir how many flows its clients opened, and how many its logs have.
	Flows []Recorded `json:"flows"`
	// Notes are what went wrong on the way, with subjects that cost a sample or all of them.
	Notes []string `json:"notes"`
}

// Recorded compares a weir's event logs with the flows that its clients opened.
type Recorded struct {
	Subject  string `json:"subject"`
	Variant  string `json:"variant,omitempty"`
	Opened   int    `json:"opened"`
	Recorded int    `json:"recorded"`
}

// Figure is a number that may not be there: 0 is null in JSON.
type Figure float64

// MarshalJSON implements json.Marshaler.
func (f Figure) MarshalJSON() ([]byte, error) {
	if f == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(float64(f))
}

// Row is one metric of one subject.
type Row struct {
	Subject   string    `json:"subject"`
	Variant   string    `json:"variant,omitempty"` // of the subject
	Metric    string    `json:"metric"`
	Direction string    `json:"direction"` // up, down, or empty
	Streams   int       `json:"streams"`   // at once; 0 where there are none
	MTU       int       `json:"mtu"`
	Value     float64   `json:"value"` // the median of the samples
	Unit      string    `json:"unit"`
	CPU       Figure    `json:"cpu_s_per_gb"` // of the processes that carry; median, as is what follows
	P50       Figure    `json:"p50"`          // microseconds
	P99       Figure    `json:"p99"`
	Samples   []float64 `json:"samples"`

	p50s, p99s, cpus []float64
}

// key is what makes rows of different subjects comparable.
func (r *Row) key() string { return fmt.Sprint(r.Metric, "/", r.Direction, "/", r.Streams) }

// shakyRatio is how far apart the samples of a number may be before it is shown with a tilde.
const shakyRatio = 2

// shaky reports whether the samples are too far apart to say much.
func (r *Row) shaky() bool {
	return len(r.Samples) > 0 && slices.Max(r.Samples) > shakyRatio*slices.Min(r.Samples)
}

// add puts one sample into the subject's row like at, and returns the row.
func (res *Result) add(s *Subject, at Row, sample float64) *Row {
	at.Subject, at.Variant, at.MTU = s.Name, s.Variant, s.MTU
	r := res.find(s, at.key())
	if r == nil {
		r = &at
		res.Rows = append(res.Rows, r)
	}
	r.Samples = append(r.Samples, sample)
	r.Value = median(r.Samples)
	return r
}

// find returns the subject's row with the key, or nil.
func (res *Result) find(s *Subject, key string) *Row {
	for _, r := range res.Rows {
		if r.Subject == s.Name && r.Variant == s.Variant && r.key() == key {
			return r
		}
	}
	return nil
}

// subject returns the measured one of that name, or nil.
func (res *Result) subject(name, variant string) *Subject {
	for _, s := range res.Subjects {
		if s.Name == name && s.Variant == variant && s.Skipped == "" {
			return s
		}
	}
	return nil
}

// record adds what one client opened and its log has.
func (res *Result) record(s *Subject, opened, recorded int) {
	i := slices.IndexFunc(res.Flows, func(f Recorded) bool { return f.Subject == s.Name && f.Variant == s.Variant })
	if i < 0 {
		i = len(res.Flows)
		res.Flows = append(res.Flows, Recorded{Subject: s.Name, Variant: s.Variant})
	}
	res.Flows[i].Opened += opened
	res.Flows[i].Recorded += recorded
}

// finish computes what follows from the samples.
func (res *Result) finish() {
	for _, r := range res.Rows {
		r.P50, r.P99, r.CPU = Figure(median(r.p50s)), Figure(median(r.p99s)), Figure(median(r.cpus))
	}
	res.Machine.LoadAfter = loadAverage()
	res.Targets = res.targets()
}

// Check returns an error if a weir's log does not have one event for each flow.
func (res *Result) Check() error {
	for _, f := range res.Flows {
		if f.Opened != f.Recorded {
			return fmt.Errorf("%s recorded %d of %d flows: there must be one event for each", f.Subject, f.Recorded, f.Opened)
		}
	}
	return nil
}

// median returns 0 for no values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
