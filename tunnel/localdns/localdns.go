package localdns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/tunnel"
)

// Bounds of what is asked.
const (
	MaxInFlight = 256              // questions at work at one time
	MaxTime     = 10 * time.Second // for one question, whatever the system's own timeouts are
	maxMessage  = 65535            // octets of an answer
)

// Config is what a Resolver is made of. The zero value is the machine's own resolver.
type Config struct {
	Log logrus.FieldLogger // nil is silent

	ResolvConf string // Linux: default /etc/resolv.conf
	Hosts      string // default: the system's hosts file
	Port       uint16 // Linux: of the nameservers, default 53

	// Dial opens "udp" and "tcp" connections to nameservers; nil means a plain [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver asks the user's machine. It may be used from many goroutines. Make it with New.
type Resolver struct {
	host  stub.Host // the files; on Linux all of it
	ask   func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
	renew func()

	flight chan struct{}
	closed context.Context
	close  context.CancelFunc

	questions, refused, limited, failed atomic.Uint64
}

// New returns the resolver of this machine. It reads nothing before the first question.
func New(c Config) *Resolver {
	r := &Resolver{flight: make(chan struct{}, MaxInFlight)}
	r.closed, r.close = context.WithCancel(context.Background())
	r.host.Path, r.host.HostsPath, r.host.Port = c.ResolvConf, c.Hosts, c.Port
	r.host.Log, r.host.Dial = c.Log, c.Dial
	r.bind()
	return r
}

// Exchange answers q, which it leaves as it is; the caller owns the answer. A name that does not exist is an answer, and so
// is the system's SERVFAIL. Errors are an [*tunnel.Error]: Limit beyond [MaxInFlight], TimedOut or NameFailed when the
// system had no answer, Malformed for what is no question.
func (r *Resolver) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if q.Response || len(q.Question) != 1 {
		r.refused.Add(1)
		return nil, tunnel.Errorf(tunnel.Malformed, "%d questions", len(q.Question))
	}
	if q.Opcode != dns.OpcodeQuery || q.Question[0].Qclass != dns.ClassINET || stub.Meta(q.Question[0].Qtype) {
		r.refused.Add(1)
		return stub.Reply(q, dns.RcodeRefused), nil
	}
	select {
	case r.flight <- struct{}{}:
		defer func() { <-r.flight }()
	default:
		r.limited.Add(1)
		return nil, tunnel.Errorf(tunnel.Limit, "more than %d questions at one time", MaxInFlight)
	}
	r.questions.Add(1)
	ctx, cancel := context.WithTimeout(ctx, MaxTime)
	defer cancel()
	defer context.AfterFunc(r.closed, cancel)()

	got := r.host.FromHosts(q)
	if got == nil {
		var err error
		if got, err = r.ask(ctx, stub.Ask(q)); err != nil {
			r.failed.Add(1)
			return nil, failure(err)
		}
	}
	return finish(q, got), nil
}

// failure is err in the words of the tunnel. The edge learns that there is no answer, and not which nameservers there are.
func failure(err error) error {
	code := tunnel.NameFailed
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		code = tunnel.TimedOut
	}
	return fmt.Errorf("ask the machine's resolver: %w: %w", &tunnel.Error{Code: code}, err)
}

// finish makes an answer to q of the one that came: its ID and spelling, whole, and nothing of what nameservers say to
// their neighbours but extended errors (RFC 8914).
func finish(q, got *dns.Msg) *dns.Msg {
	got.Id, got.Question, got.Response, got.Compress = q.Id, q.Question, true, true
	got.RecursionDesired, got.CheckingDisabled = q.RecursionDesired, q.CheckingDisabled
	asked := q.IsEdns0()
	var extra []dns.RR
	for _, rr := range got.Extra {
		switch rr := rr.(type) {
		case *dns.TSIG, *dns.SIG:
		case *dns.OPT:
			if asked != nil {
				extra = append(extra, transport(asked, rr))
				asked = nil // one is enough
			}
		default:
			extra = append(extra, rr)
		}
	}
	if got.Extra = extra; got.Rcode > 0xf && got.IsEdns0() == nil {
		got.Rcode = dns.RcodeServerFailure // the upper bits travel in EDNS
	}
	if got.Len() > maxMessage {
		got.Truncate(maxMessage)
	}
	return got
}

// transport is the OPT record of an answer.
func transport(asked, got *dns.OPT) *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(stub.UDPSize)
	opt.SetDo(asked.Do())
	for _, o := range got.Option {
		if ede, ok := o.(*dns.EDNS0_EDE); ok {
			opt.Option = append(opt.Option, ede)
		}
	}
	return opt
}

// Renew forgets what may have changed with the network the machine is in. Files are looked at again by themselves; it is
// for when the network has changed and no file has.
func (r *Resolver) Renew() {
	r.host.Renew()
	if r.renew != nil {
		r.renew()
	}
}

// Counters returns how often what happened, by name.
func (r *Resolver) Counters() map[string]uint64 {
	c := r.host.Counters()
	c["questions"], c["refused"] = r.questions.Load(), r.refused.Load()
	c["drop-in-flight"], c["failed"] = r.limited.Load(), r.failed.Load()
	return c
}

// Close ends the questions that are at work, and every later one. It may be called more than once.
func (r *Resolver) Close() error {
	r.close()
	return nil
}
