// Package testdns has nameservers for tests: authorities on the loopback that answer from a zone, with what a test says, or
// not at all.
package testdns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Zone has records in presentation form by "name. TYPE"; those with "+" before them go to the additional section. A key
// without an entry is NXDOMAIN.
type Zone map[string][]string

// Exchange answers from the zone as a recursive server would.
func (z Zone) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	r := new(dns.Msg).SetReply(q)
	r.RecursionAvailable = true
	question := q.Question[0]
	texts, ok := z[strings.ToLower(question.Name)+" "+dns.Type(question.Qtype).String()]
	if !ok {
		r.Rcode = dns.RcodeNameError
		return r, nil
	}
	for _, text := range texts {
		section := &r.Answer
		if t, ok := strings.CutPrefix(text, "+"); ok {
			text, section = t, &r.Extra
		}
		*section = append(*section, Record(text))
	}
	return r, nil
}

// Handler makes the replies to one question, which came by "udp" or "tcp"; none is silence.
type Handler func(network string, q *dns.Msg) []*dns.Msg

// Answers is a Handler that answers from the zone.
func (z Zone) Answers() Handler {
	return func(_ string, q *dns.Msg) []*dns.Msg {
		r, _ := z.Exchange(context.Background(), q)
		return []*dns.Msg{r}
	}
}

// Cut is a Handler that answers from the zone over TCP and has no room for any record over UDP.
func (z Zone) Cut() Handler {
	return func(network string, q *dns.Msg) []*dns.Msg {
		r, _ := z.Exchange(context.Background(), q)
		if r.Compress = true; network == "udp" {
			r.Answer, r.Truncated = nil, true
		}
		return []*dns.Msg{r}
	}
}

// Says is a Handler that answers everything with rcode.
func Says(rcode int) Handler {
	return func(_ string, q *dns.Msg) []*dns.Msg { return []*dns.Msg{new(dns.Msg).SetRcode(q, rcode)} }
}

// Silent is a Handler that never answers.
func Silent(string, *dns.Msg) []*dns.Msg { return nil }

// Server is a nameserver.
type Server struct {
	mu   sync.Mutex
	asks []*dns.Msg
	seen []string
}

// Asked lists the questions that came, each "NETWORK NAME TYPE".
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Messages are the questions as they came.
func (s *Server) Messages() []*dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks)
}

func (s *Server) note(network string, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks = append(s.asks, q.Copy())
	s.seen = append(s.seen, fmt.Sprintf("%s %s %s", network, q.Question[0].Name, dns.Type(q.Question[0].Qtype)))
}

// Serve listens on ip:port until the test ends, over UDP and TCP; port 0 takes a free one.
func Serve(t testing.TB, ip string, port uint16, handle Handler) (*Server, uint16) {
	t.Helper()
	s := &Server{}
	pc, ln := ListenBoth(t, ip, port)
	handler := func(network string) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			s.note(network, q)
			for _, r := range handle(network, q) {
				w.WriteMsg(r)
			}
		}
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: handler("udp")}, {Listener: ln, Handler: handler("tcp")}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go srv.ActivateAndServe()
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return s, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// ListenBoth takes one port for both transports; a free UDP port may be taken for TCP, so it tries a few.
func ListenBoth(t testing.TB, ip string, port uint16) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 20 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr(ip), port).String()); err != nil {
			break
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln
		}
		pc.Close()
		if port != 0 {
			break
		}
	}
	t.Fatalf("listen: %v", err)
	return nil, nil
}

// Record parses one record and panics on a mistake in a test.
func Record(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(text + ": " + err.Error())
	}
	return rr
}

// Question makes one, with EDNS when size is not 0.
func Question(name string, qtype, size uint16) *dns.Msg {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	if size > 0 {
		q.SetEdns0(size, false)
	}
	return q
}

// Data lists the data of the records in the answer, without owners and TTLs.
func Data(r *dns.Msg) []string {
	var list []string
	if r == nil {
		return nil
	}
	for _, rr := range r.Answer {
		if u, ok := rr.(*dns.RFC3597); ok { // its header says the class, too
			list = append(list, fmt.Sprintf(`\# %d %s`, len(u.Rdata)/2, u.Rdata))
			continue
		}
		list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return list
}
