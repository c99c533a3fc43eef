//go:build linux

package playground

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Name gives a name an address: an A or AAAA record for name, and the address itself.
func (w *World) Name(name string, addrs ...netip.Addr) error {
	for _, a := range addrs {
		kind := "A"
		if a.Is6() {
			kind = "AAAA"
		}
		if err := w.Record(fmt.Sprintf("%s 60 IN %s %s", dns.Fqdn(name), kind, a)); err != nil {
			return err
		}
		if err := w.Address(a); err != nil {
			return err
		}
	}
	return nil
}

// Record adds a record in the text form of RFC 1035 section 5: "www.example. 60 IN CNAME example.".
func (w *World) Record(text string) error {
	rr, err := dns.NewRR(text)
	if err != nil {
		return fmt.Errorf("add record: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := strings.ToLower(rr.Header().Name)
	w.zone[owner] = append(w.zone[owner], text)
	return nil
}

// Queries returns the questions that have reached the DNS server, as "NAME TYPE", in their order.
func (w *World) Queries() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.queries)
}

// HandleName has h answer the questions for name and for everything below it. h owns the reply: it may send none, or several,
// or what is no answer at all.
func (w *World) HandleName(name string, h dns.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[dns.Fqdn(strings.ToLower(name))] = h
}

// handler returns the one that HandleName was given for the name or the nearest above it.
func (w *World) handler(name string) dns.HandlerFunc {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name = strings.ToLower(name); ; {
		if h := w.handlers[name]; h != nil {
			return h
		}
		_, rest, found := strings.Cut(name, ".")
		if !found || rest == "" {
			return nil
		}
		name = rest
	}
}

// Overhear has f see every message that reaches the DNS server, as it was on the wire, before anything is made of it. f must
// not keep raw.
func (w *World) Overhear(f func(raw []byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overhear = f
}

// reader shows what a DNS server reads to Overhear's function.
type reader struct {
	dns.Reader
	w *World
}

func (r reader) ReadTCP(c net.Conn, timeout time.Duration) ([]byte, error) {
	raw, err := r.Reader.ReadTCP(c, timeout)
	r.w.heard(raw)
	return raw, err
}

func (r reader) ReadUDP(c *net.UDPConn, timeout time.Duration) ([]byte, *dns.SessionUDP, error) {
	raw, session, err := r.Reader.ReadUDP(c, timeout)
	r.w.heard(raw)
	return raw, session, err
}

func (w *World) heard(raw []byte) {
	w.mu.Lock()
	f := w.overhear
	w.mu.Unlock()
	if f != nil && len(raw) > 0 {
		f(raw)
	}
}

func (w *World) serveDNS() error {
	if err := w.Address(DNSServer); err != nil {
		return err
	}
	at := netip.AddrPortFrom(DNSServer, 53).String()
	return w.Internet(func() error {
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			return fmt.Errorf("serve dns: %w", err)
		}
		ln, err := net.Listen("tcp", at)
		if err != nil {
			pc.Close()
			return fmt.Errorf("serve dns: %w", err)
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: dns.HandlerFunc(w.answer)}, {Listener: ln, Handler: dns.HandlerFunc(w.answer)}} {
			s.DecorateReader = func(r dns.Reader) dns.Reader { return reader{r, w} }
			go s.ActivateAndServe()
			w.onClose(func() { s.Shutdown() })
		}
		return nil
	})
}

// answer is an authority for every name: what the zone does not have does not exist.
func (w *World) answer(rw dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) == 1 {
		if h := w.handler(q.Question[0].Name); h != nil {
			w.note(q.Question[0])
			h(rw, q)
			return
		}
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if len(q.Question) == 1 {
		w.note(q.Question[0])
		w.fill(m, q.Question[0])
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, false)
	}
	if _, udp := rw.LocalAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		m.Truncate(size)
	}
	rw.WriteMsg(m)
}

// note remembers a question for Queries.
func (w *World) note(q dns.Question) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queries = append(w.queries, strings.TrimSuffix(strings.ToLower(q.Name), ".")+" "+dns.TypeToString[q.Qtype])
}

func (w *World) fill(m *dns.Msg, q dns.Question) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.ToLower(q.Name)
	for range 8 { // the chain of CNAMEs
		records, ok := w.zone[name]
		if !ok && len(m.Answer) == 0 && name != "." {
			m.Rcode = dns.RcodeNameError
			return
		}
		next := ""
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				continue
			}
			if c, ok := rr.(*dns.CNAME); ok && q.Qtype != dns.TypeCNAME {
				next = strings.ToLower(c.Target)
			} else if rr.Header().Rrtype != q.Qtype && q.Qtype != dns.TypeANY {
				continue
			}
			m.Answer = append(m.Answer, rr)
		}
		if next == "" {
			return
		}
		name = next
	}
}
