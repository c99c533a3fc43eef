package resolver

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
)

// Upstream asks a resolver that is trusted for evidence: the host's, or the tunnel client's. The answer's question equals
// that of q; the caller owns both messages. Exchange returns by the time ctx ends.
type Upstream interface {
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// Verdict is what the policy says of a name.
type Verdict struct {
	Allow     bool   // the question or answer may pass
	WouldDeny bool   // it passes only because nothing is enforced
	Rule      string // FILE:LINE, flag:N or builtin:NAME
	Reason    string // a reason of the event log, "" when nothing is to be said
}

// Query is one question and what became of it, for the event log.
type Query struct {
	Hostname string   // the name as it was asked, lower case, without the final dot; hostile text
	Qtype    string   // "A", "HTTPS", "TYPE65280"
	Server   string   // who was asked, HOST:PORT as seen from the sandbox
	Rcode    string   // of the answer the sandbox got: "NOERROR", "NXDOMAIN"; "" when none came
	Answers  []string // what the sandbox got, rdata in presentation form, at most maxAnswers; hostile text
	Route    string
	Verdict  string // "allow", "deny", "would-deny"
	Rule     string
	Reason   string
	Confirm  bool // weir's own question on behalf of a flow, not one of the sandbox
	Duration time.Duration
}

// Server answers the questions of one sandbox. Upstream, Memory and Decide are needed; the zero value of every other field
// is usable. Do not change fields once in use.
type Server struct {
	Upstream Upstream
	Memory   *Memory
	Route    string // the route Upstream stands for, "direct" if empty
	Enforce  bool   // what is not understood is denied; false (audit): it passes

	// Decide judges a name in normal form, without leading _service._proto labels.
	Decide func(name string, qtype uint16) Verdict
	// DecideChain judges the CNAME chain members of an answer, for denies only. Nil allows.
	DecideChain func(names []string) Verdict
	// Answer says whether an answer for name may carry addr (rebinding), and if not why. Nil keeps all.
	Answer func(name string, addr netip.Addr) (keep bool, reason string)
	// Record is called once for each question, from many goroutines; it must not block. Nil records nothing.
	Record func(Query)

	StripECH bool                    // take ech out of HTTPS and SVCB answers
	IPv6     bool                    // false: AAAA is NODATA
	Local    map[string][]netip.Addr // names answered from here, in normal form: host.weir.internal

	MaxInFlight int // questions at work at one time, default 256; beyond it SERVFAIL
	Log         logrus.FieldLogger
}

// Serve answers on pc (UDP) and ln (TCP), either of which may be nil, until ctx ends or one fails; it closes both and
// returns when all questions are done. The error is never nil.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, ln net.Listener) error {
	<-ctx.Done()
	return ctx.Err()
}

// Confirm asks the own upstream once for name and reports whether addr is among the addresses it may have.
func (s *Server) Confirm(ctx context.Context, name string, addr netip.Addr) bool { return false }

// Watch carries one flow to a DNS server that the sandbox chose itself.
func (s *Server) Watch(ctx context.Context, network string, server netip.AddrPort, client, upstream net.Conn) (up, down int64, err error) {
	return 0, 0, ctx.Err()
}
