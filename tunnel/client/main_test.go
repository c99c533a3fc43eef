package client

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a resolver that knows what it was given: "name" -> "address" or "=alias". It counts what it is asked.
type zone struct {
	mu      sync.Mutex
	records map[string][]string
	asked   []string
	last    *dns.Msg
}

func names(records ...string) *zone {
	z := &zone{records: map[string][]string{}}
	for _, r := range records {
		name, value, _ := strings.Cut(r, " ")
		z.records[name] = append(z.records[name], value)
	}
	return z
}

func (z *zone) set(name string, values ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = values
}

func (z *zone) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.last = q.Copy()
	r := new(dns.Msg).SetReply(q)
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	z.asked = append(z.asked, name)
	for range 8 {
		values, ok := z.records[name]
		if !ok {
			r.Rcode = dns.RcodeNameError
			return r, nil
		}
		next := ""
		for _, v := range values {
			head := dns.RR_Header{Name: dns.Fqdn(name), Class: dns.ClassINET, Ttl: 30}
			if alias, ok := strings.CutPrefix(v, "="); ok {
				head.Rrtype, next = dns.TypeCNAME, alias
				r.Answer = append(r.Answer, &dns.CNAME{Hdr: head, Target: dns.Fqdn(alias)})
				continue
			}
			a := netip.MustParseAddr(v)
			switch {
			case q.Question[0].Qtype == dns.TypeHTTPS && a.Is4():
				head.Rrtype = dns.TypeHTTPS
				r.Answer = append(r.Answer, &dns.HTTPS{SVCB: dns.SVCB{Hdr: head, Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{&dns.SVCBIPv4Hint{Hint: []net.IP{a.AsSlice()}}}}})
			case q.Question[0].Qtype == dns.TypeA && a.Is4():
				head.Rrtype = dns.TypeA
				r.Answer = append(r.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
			case q.Question[0].Qtype == dns.TypeAAAA && a.Is6():
				head.Rrtype = dns.TypeAAAA
				r.Answer = append(r.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
			}
		}
		if next == "" {
			return r, nil
		}
		name = next
	}
	return r, nil
}

func (z *zone) count() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.asked)
}

// log is a sink that keeps what it was told.
type log struct {
	mu     sync.Mutex
	events []*event.Event
}

func (l *log) Emit(e *event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// of returns the details of one kind.
func of[D event.Details](l *log) []D {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []D
	for _, e := range l.events {
		if d, ok := e.Details.(D); ok {
			out = append(out, d)
		}
	}
	return out
}

// machine is a user's machine with its own addresses, an edge and a list.
type machine struct {
	*Handler
	names *zone
	log   *log
}

// own is an address of the test's machine, itsEdge that of its edge.
var own, itsEdge = netip.MustParseAddr("192.168.7.2"), netip.MustParseAddr("198.51.100.7")

func newMachine(t testing.TB, rules Rules, z *zone, change ...func(*HandlerConfig)) *machine {
	t.Helper()
	host, err := guard.NewHost(func() ([]netip.Addr, error) { return []netip.Addr{own, netip.MustParseAddr("172.17.0.1")}, nil })
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPolicy(rules, host)
	if err != nil {
		t.Fatal(err)
	}
	p.SetEdge([]netip.Addr{itsEdge})
	m := &machine{names: z, log: &log{}}
	c := HandlerConfig{Policy: p, Sink: m.log, Client: "default/laptop"}
	if z != nil {
		c.Names = z
	}
	for _, f := range change {
		f(&c)
	}
	m.Handler = NewHandler(c)
	t.Cleanup(func() { m.Handler.Close() })
	return m
}

// opening makes an Open from words: the destination, then "udp", "app=" and names.
func opening(text string) tunnel.Open {
	words := strings.Fields(text)
	o := tunnel.Open{Owner: tunnel.Owner{Space: "default", App: "postgres", Sandbox: "7f3a9c"}, Flow: "7f3a9c-12", Network: "tcp", Addr: netip.MustParseAddrPort(words[0])}
	for _, w := range words[1:] {
		app, isApp := strings.CutPrefix(w, "app=")
		flow, isFlow := strings.CutPrefix(w, "flow=")
		switch {
		case w == "udp":
			o.Network = "udp"
		case isApp:
			o.App = app
		case isFlow:
			o.Flow = flow
		default:
			o.Names = append(o.Names, w)
		}
	}
	return o
}

// ask sends a question as the edge would, and returns the answer.
func (m *machine) ask(t testing.TB, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	o := opening("192.0.2.1:1")
	got, err := m.Query(context.Background(), tunnel.Query{Owner: o.Owner, Message: wire})
	if err != nil {
		t.Fatalf("query %s: %v", name, err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(got); err != nil {
		t.Fatal(err)
	}
	return r
}

// judged returns what the list says of a flow, without dialling.
func (m *machine) judged(text string) finding {
	o := opening(text)
	o.Addr = netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port())
	return m.judge(context.Background(), o)
}

// server listens on the loopback and echoes.
func server(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				b := make([]byte, 1024)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 1000 {
		if is() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}
