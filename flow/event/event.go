package event

import "time"

// Kind names what happened, as it appears in the field "event" of a line.
type Kind string

// The kinds that exist. The contract may add kinds and never renames one.
const (
	KindConnect      Kind = "network-connect"
	KindClose        Kind = "network-close"
	KindDNSQuery     Kind = "dns-query"
	KindSandboxStart Kind = "sandbox-start"
	KindSandboxExit  Kind = "sandbox-exit"
	KindTunnelUp     Kind = "tunnel-up"
	KindTunnelDown   Kind = "tunnel-down"
	KindAlert        Kind = "alert"
	KindDropped      Kind = "dropped"
)

// Event is one line of the event log.
type Event struct {
	// Time is when it happened; lines carry it in UTC with six decimals.
	Time time.Time

	// Kind may be left empty: then it is the kind of Details.
	Kind Kind

	// App is the name a person gave to the program, Sandbox the id of the running instance, Flow the id of the flow
	// ("7f3a9c-12") or empty for events that are about no flow.
	App, Sandbox, Flow string

	// Details is what the kind adds. Nil becomes an empty object.
	Details Details
}

// Details is what one kind of event adds: *[Connect], *[Close], *[DNSQuery], *[SandboxStart], *[SandboxExit], *[Tunnel],
// *[Alert] or *[Dropped]. The set is closed.
type Details interface {
	// Kind is the kind of event that these details belong to.
	Kind() Kind

	// AppendJSON appends the details as one JSON object without a newline and returns the longer slice.
	AppendJSON(b []byte) []byte

	// size is about how many octets the details hold in memory: the sum of the string lengths, cheap to take.
	size() int
}

// Sink takes events. Emit never blocks, is safe for concurrent use and takes the event over: the caller must not change
// it, or anything it points to, afterwards.
type Sink interface{ Emit(*Event) }

// Tee returns a sink that hands every event to each of the sinks in order. Nil sinks are left out.
func Tee(sinks ...Sink) Sink {
	var t tee
	for _, s := range sinks {
		if s != nil {
			t = append(t, s)
		}
	}
	return t
}

type tee []Sink

func (t tee) Emit(e *Event) {
	for _, s := range t {
		s.Emit(e)
	}
}

// kind returns the event's kind, taken from Details where the emitter left it empty.
func (e *Event) kind() Kind {
	if e.Kind == "" && e.Details != nil {
		return e.Details.Kind()
	}
	return e.Kind
}
