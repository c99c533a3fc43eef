package event

import (
	"net/netip"
	"time"
)

// Connect is a flow that was judged: once per flow, denied ones too.
type Connect struct {
	// Hostname is the name the flow goes by in summaries: the evidence or, without any, the claim. Empty when nothing
	// names the flow.
	Hostname string

	// NameSource says where Hostname is from: "dns", "sni", "quic-sni", "http-host" or "none". Empty is "none".
	NameSource string

	// Names are all live names bound to the address that this sandbox asked for.
	Names []string

	// Dst is the endpoint the program asked for, Src its own inside the sandbox. Ports are 0 for "icmp".
	Dst, Src netip.AddrPort

	// Protocol is "tcp", "udp" or "icmp".
	Protocol string

	// Route is "direct", "tunnel" or "tunnel:NAME".
	Route string

	// Client is who carries the flow on such a tunnel, as SPACE/NAME; empty on other routes, and where nobody does.
	Client string

	// Verdict is "allow", "deny" or "would-deny". When it is empty the line has no such field (weir read).
	Verdict string

	// Rule is FILE:LINE, flag:N or builtin:NAME; Reason is one of the contract's reasons, empty for an allow.
	Rule, Reason string

	// Door is "netstack" or "tproxy".
	Door string

	// SNI and HTTPHost are the claims as they were read; ALPN the protocols offered in the ClientHello; ECH says that it
	// had an encrypted_client_hello extension.
	SNI, HTTPHost string
	ALPN          []string
	ECH           bool

	// Inbound says that the flow came from outside to a published port; the line then has "direction":"in".
	Inbound bool

	// Process is who opened the flow, nil when that is not known.
	Process *Process
}

// Process is a program inside the sandbox.
type Process struct {
	// PID is the process id inside the sandbox's pid namespace.
	PID int

	// Exe is the path of the executable, Args its command line. Secrets in Args are masked when the line is written.
	Exe  string
	Args []string
}

// Close is the end of a flow that was carried. It repeats what names the flow, so that a line can be read alone and a
// [Report] needs no memory of open flows: Hostname, Dst, Protocol, Route, Client and Verdict are those of the flow's [Connect].
type Close struct {
	Hostname                         string
	Dst                              netip.AddrPort
	Protocol, Route, Client, Verdict string

	// BytesSent went from the sandbox to the network, BytesReceived came back; payload octets.
	BytesSent, BytesReceived uint64

	// Duration is from the flow's arrival to its end.
	Duration time.Duration

	// Close is "fin", "rst", "timeout", "policy", "tunnel-lost", "exit" or "error".
	Close string

	// Rule and Reason say why a Close of "policy" came: a later claim on the flow was denied. Error says what broke when
	// Close is "error". The line has these fields only when they are not empty.
	Rule, Reason, Error string
}

// DNSQuery is one question and what became of it.
type DNSQuery struct {
	// Hostname is the name in the question, QType its type ("A", "AAAA", "HTTPS", "TYPE65280").
	Hostname, QType string

	// Server is the server that the program asked: address and port.
	Server string

	// RCode is the answer's code ("NOERROR", "NXDOMAIN"), empty when there was no answer. Answers are the records of the
	// answer section in short form: addresses, and the targets of CNAMEs.
	RCode   string
	Answers []string

	// Route, Client, Verdict, Rule and Reason are as in [Connect]; Client is who answered.
	Route, Client, Verdict, Rule, Reason string

	// Duration is from the question's arrival to its answer.
	Duration time.Duration
}

// SandboxStart is a sandbox whose program is about to run.
type SandboxStart struct {
	// Command is what runs; secrets are masked when the line is written.
	Command []string

	// Door is "netstack" or "tproxy", Link "tap" or "veth", Policy the digest of the policy in force, Mode "audit" or
	// "enforce".
	Door, Link, Policy, Mode string

	// Held is what keeps the data path itself from doing more than it must: "seccomp", "landlock:N" with the ABI version;
	// and by "cmd:" and the constants of package sandbox, what keeps the program.
	Held []string
}

// SandboxExit is a sandbox that has ended.
type SandboxExit struct {
	// Command, Door, Link, Policy and Mode are those of the [SandboxStart].
	Command                  []string
	Door, Link, Policy, Mode string

	// Status is the program's exit status, 128+N for signal N.
	Status int

	// Duration is from start to exit.
	Duration time.Duration
}

// Tunnel is a client's session that has begun or ended.
type Tunnel struct {
	// Up is whether it has begun; then the kind is tunnel-up, else tunnel-down.
	Up bool

	// Client is the client as its certificate says, SPACE/CLIENT. Transport is "quic" or "websocket", Remote where its packets
	// come from.
	Client, Transport, Remote string

	// Session is the id of the session, which the client logs too.
	Session string

	// Reason is why it ended: "tunnel lost", "revoked", "superseded" ...; empty for a beginning.
	Reason string
}

// Alert is something a person should look at.
type Alert struct {
	// What says which: "first-seen", "budget", "tamper". The line carries it as "kind".
	What string

	// Subject is what it is about, for example a host name.
	Subject string
}

// Dropped says that packets or events were not carried.
type Dropped struct {
	// What was dropped: "events", "packets" or something narrower.
	What string

	// Count is exact, and counts since the last event with the same What.
	Count uint64

	// ByKind splits Count by the kind of event, when What is "events".
	ByKind []KindCount
}

// KindCount is a number of events of one kind.
type KindCount struct {
	Kind  Kind
	Count uint64
}

// Kind implements [Details].
func (*Connect) Kind() Kind      { return KindConnect }
func (*Close) Kind() Kind        { return KindClose }
func (*DNSQuery) Kind() Kind     { return KindDNSQuery }
func (*SandboxStart) Kind() Kind { return KindSandboxStart }
func (*SandboxExit) Kind() Kind  { return KindSandboxExit }
func (*Alert) Kind() Kind        { return KindAlert }

// Kind implements [Details].
func (t *Tunnel) Kind() Kind {
	if t.Up {
		return KindTunnelUp
	}
	return KindTunnelDown
}

// Kind implements [Details].
func (*Dropped) Kind() Kind { return KindDropped }

func (c *Connect) size() int {
	n := len(c.Hostname) + len(c.SNI) + len(c.HTTPHost) + len(c.Client) + len(c.Rule) + sizeOf(c.Names) + sizeOf(c.ALPN)
	if c.Process != nil {
		n += len(c.Process.Exe) + sizeOf(c.Process.Args)
	}
	return n
}

func (c *Close) size() int { return len(c.Hostname) + len(c.Route) + len(c.Client) + len(c.Error) }
func (d *DNSQuery) size() int {
	return len(d.Hostname) + len(d.Client) + len(d.Rule) + sizeOf(d.Answers)
}
func (s *SandboxStart) size() int { return sizeOf(s.Command) + len(s.Policy) }
func (s *SandboxExit) size() int  { return sizeOf(s.Command) + len(s.Policy) }
func (a *Alert) size() int        { return len(a.What) + len(a.Subject) }
func (t *Tunnel) size() int       { return len(t.Client) + len(t.Remote) + len(t.Session) + len(t.Reason) }
func (d *Dropped) size() int      { return len(d.What) + 32*len(d.ByKind) }

func sizeOf(list []string) int {
	n := 16 * len(list)
	for _, s := range list {
		n += len(s)
	}
	return n
}
