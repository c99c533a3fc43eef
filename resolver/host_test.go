package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// nameserver is an authority on the loopback that answers with what handle returns; nil is silence.
type nameserver struct {
	mu   sync.Mutex
	asks []string // "udp NAME TYPE"
}

func (n *nameserver) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asks)
}

// serveZone listens on ip:port, UDP and TCP; port 0 takes a free one.
func serveZone(t *testing.T, ip string, port uint16, handle func(network string, q *dns.Msg) []*dns.Msg) (*nameserver, uint16) {
	t.Helper()
	n := &nameserver{}
	pc, ln := listenBoth(t, ip, port)
	handler := func(network string) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			n.mu.Lock()
			n.asks = append(n.asks, fmt.Sprintf("%s %s %s", network, q.Question[0].Name, typeName(q.Question[0].Qtype)))
			n.mu.Unlock()
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
	return n, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// listenBoth takes one port for both transports; a free UDP port may be taken for TCP, so it tries a few.
func listenBoth(t *testing.T, ip string, port uint16) (net.PacketConn, net.Listener) {
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

// answers is a handler that answers from the zone.
func answers(z zone) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, q *dns.Msg) []*dns.Msg {
		r, _ := z.Exchange(context.Background(), q)
		return []*dns.Msg{r}
	}
}

func says(rcode int) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, q *dns.Msg) []*dns.Msg { return []*dns.Msg{new(dns.Msg).SetRcode(q, rcode)} }
}

func silent(string, *dns.Msg) []*dns.Msg { return nil }

// hostWith is a Host of temporary files.
func hostWith(t *testing.T, port uint16, conf, hosts string) *Host {
	t.Helper()
	dir := t.TempDir()
	h := &Host{Path: filepath.Join(dir, "resolv.conf"), HostsPath: filepath.Join(dir, "hosts"), Port: port}
	write(t, h.Path, conf)
	write(t, h.HostsPath, hosts)
	return h
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHostAsksTheNameservers(t *testing.T) {
	big := zone{"big.test. A": nil}
	for i := range 100 {
		big["big.test. A"] = append(big["big.test. A"], fmt.Sprintf("big.test. 60 A 192.0.2.%d", i))
	}
	cut := func(tcp bool) func(string, *dns.Msg) []*dns.Msg {
		return func(network string, q *dns.Msg) []*dns.Msg {
			r, _ := big.Exchange(context.Background(), q)
			if network == "udp" {
				r.Answer, r.Truncated = r.Answer[:10], true
			} else if !tcp {
				return nil
			}
			return []*dns.Msg{r}
		}
	}
	forged := func(change func(r *dns.Msg)) func(string, *dns.Msg) []*dns.Msg {
		return func(_ string, q *dns.Msg) []*dns.Msg {
			lie := new(dns.Msg).SetReply(q)
			lie.Question = slices.Clone(q.Question)
			lie.RecursionAvailable, lie.Answer = true, []dns.RR{record("api.test. 60 A 203.0.113.6")}
			change(lie)
			truth, _ := world.Exchange(context.Background(), q)
			return []*dns.Msg{lie, truth}
		}
	}
	api := []string{"192.0.2.1"}
	for row, c := range []struct {
		name    string
		options string
		servers []func(string, *dns.Msg) []*dns.Msg // 127.0.ROW.2, .3, ...; nil: nobody listens
		q       string
		rcode   int
		answers int
		want    []string
		asks    []int // how often each was asked
	}{
		{name: "one answers", servers: []func(string, *dns.Msg) []*dns.Msg{answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "NXDOMAIN is an answer", servers: []func(string, *dns.Msg) []*dns.Msg{answers(world), answers(world)}, q: "none.test", rcode: dns.RcodeNameError, asks: []int{1, 0}},
		{name: "the first is not there", servers: []func(string, *dns.Msg) []*dns.Msg{nil, answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{0, 1}},
		{name: "the first is silent", options: "timeout:1", servers: []func(string, *dns.Msg) []*dns.Msg{silent, answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first fails", servers: []func(string, *dns.Msg) []*dns.Msg{says(dns.RcodeServerFailure), answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first refuses", servers: []func(string, *dns.Msg) []*dns.Msg{says(dns.RcodeRefused), answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first is lame", servers: []func(string, *dns.Msg) []*dns.Msg{says(dns.RcodeSuccess), answers(world)}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "all fail", servers: []func(string, *dns.Msg) []*dns.Msg{says(dns.RcodeServerFailure), says(dns.RcodeRefused)}, q: "api.test", rcode: dns.RcodeServerFailure, asks: []int{1, 1}},
		{name: "no EDNS there", servers: []func(string, *dns.Msg) []*dns.Msg{func(n string, q *dns.Msg) []*dns.Msg {
			if q.IsEdns0() != nil {
				return []*dns.Msg{{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}}}
			}
			return answers(world)(n, q)
		}}, q: "api.test", answers: 1, want: api, asks: []int{2}},
		{name: "cut, then TCP", servers: []func(string, *dns.Msg) []*dns.Msg{cut(true)}, q: "big.test", answers: 100, asks: []int{2}},
		{name: "cut, and no TCP there: half is more than none", options: "timeout:1", servers: []func(string, *dns.Msg) []*dns.Msg{cut(false)}, q: "big.test", answers: 10, asks: []int{2}},
		{name: "use-vc", options: "use-vc", servers: []func(string, *dns.Msg) []*dns.Msg{cut(true)}, q: "big.test", answers: 100, asks: []int{1}},
		{name: "a forged ID", servers: []func(string, *dns.Msg) []*dns.Msg{forged(func(r *dns.Msg) { r.Id++ })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a forged name", servers: []func(string, *dns.Msg) []*dns.Msg{forged(func(r *dns.Msg) { r.Question[0].Name = "apj.test." })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a forged type", servers: []func(string, *dns.Msg) []*dns.Msg{forged(func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeAAAA })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "no question in it", servers: []func(string, *dns.Msg) []*dns.Msg{forged(func(r *dns.Msg) { r.Question = nil })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a question that comes back", servers: []func(string, *dns.Msg) []*dns.Msg{forged(func(r *dns.Msg) { r.Response = false })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a flood of forged replies: TCP", servers: []func(string, *dns.Msg) []*dns.Msg{func(n string, q *dns.Msg) []*dns.Msg {
			if n == "tcp" {
				return answers(world)(n, q)
			}
			lie := new(dns.Msg).SetReply(q)
			lie.Id++
			return slices.Repeat([]*dns.Msg{lie}, maxForged)
		}}, q: "api.test", answers: 1, want: api, asks: []int{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var port uint16
			var servers []*nameserver
			conf := "options " + c.options + "\n"
			// The last one takes a free port and the others that port on their addresses.
			for i := len(c.servers) - 1; i >= 0; i-- {
				ip := fmt.Sprintf("127.0.%d.%d", row+1, i+2) // a network of its own for each row
				conf = "nameserver " + ip + "\n" + conf
				n := &nameserver{}
				if c.servers[i] != nil {
					n, port = serveZone(t, ip, port, c.servers[i])
				}
				servers = append([]*nameserver{n}, servers...)
			}
			h := hostWith(t, port, conf, "")
			q := question(c.q, dns.TypeA, 1232)
			before := q.Copy()
			r, err := h.Exchange(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before.String(), q.String()); diff != "" {
				t.Errorf("the question was changed: %s", diff)
			}
			if r.Rcode != c.rcode || len(r.Answer) != c.answers || c.want != nil && !slices.Equal(answersOf(r), c.want) || !slices.Equal(r.Question, q.Question) {
				t.Errorf("answer %v", r)
			}
			for i, n := range servers {
				if got := n.asked(); len(got) != c.asks[i] {
					t.Errorf("server %d was asked %v", i, got)
				}
			}
		})
	}
}

// TestHostSourceIsChecked: an answer from another address than the one that was asked does not arrive.
func TestHostSourceIsChecked(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	asked := make(chan *net.UDPAddr, 1)
	pc, ln := listenBoth(t, "127.0.0.2", 0)
	ln.Close()
	defer pc.Close()
	go func() {
		buf := make([]byte, 512)
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		q.Unpack(buf[:n])
		r := new(dns.Msg).SetReply(q)
		r.Answer = []dns.RR{record("api.test. 60 A 203.0.113.6")}
		lie, _ := r.Pack()
		other.WriteTo(lie, from)
		truth, _ := world.Exchange(context.Background(), q)
		b, _ := truth.Pack()
		pc.WriteTo(b, from)
		asked <- from.(*net.UDPAddr)
	}()
	h := hostWith(t, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port(), "nameserver 127.0.0.2", "")
	r, err := h.Exchange(t.Context(), question("api.test", dns.TypeA, 0))
	if err != nil || !slices.Equal(answersOf(r), []string{"192.0.2.1"}) {
		t.Fatalf("%v %v", r, err)
	}
	<-asked
}

func TestHostNobodyAnswers(t *testing.T) {
	_, port := serveZone(t, "127.0.0.2", 0, silent)
	h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:1 attempts:1", "")
	if _, err := h.Exchange(t.Context(), question("api.test", dns.TypeA, 0)); err == nil {
		t.Fatal("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Exchange(ctx, question("api.test", dns.TypeA, 0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// TestHostRestsTheDead: a nameserver that is not there is asked last from then on.
func TestHostRestsTheDead(t *testing.T) {
	_, port := serveZone(t, "127.0.100.3", 0, answers(world))
	h := hostWith(t, port, "nameserver 127.0.100.2\nnameserver 127.0.100.3", "")
	if _, err := h.Exchange(t.Context(), question("api.test", dns.TypeA, 0)); err != nil {
		t.Fatal(err)
	}
	if got := h.order(h.config()); !slices.Equal(got, addrs("127.0.100.3", "127.0.100.2")) || h.Counters()["upstream-failovers"] != 1 {
		t.Fatalf("%v %v", got, h.Counters())
	}
}

// TestHostOrder: rotation, and those that did not answer go last for a while.
func TestHostOrder(t *testing.T) {
	h := hostWith(t, 53, "nameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.4", "")
	c := h.config()
	if got := h.order(c); !slices.Equal(got, addrs("127.0.0.2", "127.0.0.3", "127.0.0.4")) {
		t.Errorf("%v", got)
	}
	h.rest(netip.MustParseAddr("127.0.0.2"))
	if got := h.order(c); !slices.Equal(got, addrs("127.0.0.3", "127.0.0.4", "127.0.0.2")) {
		t.Errorf("resting: %v", got)
	}
	c.rotate = true
	var first []string
	h.resting = nil
	for range 4 {
		first = append(first, h.order(c)[0].String())
	}
	if diff := cmp.Diff([]string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"}, first); diff != "" {
		t.Errorf("rotate: %s", diff)
	}
}

func TestHostsFile(t *testing.T) {
	h := hostWith(t, 1, "", strings.Join([]string{
		"# a comment", "127.0.0.1 localhost", "10.0.0.5 Nas nas.home # mine", "fd00::5 nas", "bad line", "999.1.1.1 x", "10.0.0.6 bad..name ok.home", "",
	}, "\n"))
	for _, c := range []struct {
		name, q string
		qtype   uint16
		want    []string
	}{
		{"A", "NAS", dns.TypeA, []string{"10.0.0.5"}},
		{"AAAA", "nas", dns.TypeAAAA, []string{"fd00::5"}},
		{"a second name", "nas.home", dns.TypeA, []string{"10.0.0.5"}},
		{"the other family is no data", "nas.home", dns.TypeAAAA, nil},
		{"no service records lead past it", "nas.home", dns.TypeHTTPS, nil},
		{"beside a bad name", "ok.home", dns.TypeA, []string{"10.0.0.6"}},
		{"ANY", "nas", dns.TypeANY, []string{"10.0.0.5", "fd00::5"}},
		{"PTR", "5.0.0.10.in-addr.arpa", dns.TypePTR, []string{"nas.", "nas.home."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := h.Exchange(t.Context(), question(c.q, c.qtype, 0))
			if err != nil || r.Rcode != dns.RcodeSuccess || !slices.Equal(answersOf(r), c.want) {
				t.Fatalf("%v %v", r, err)
			}
		})
	}
	if r := h.hosts.value.answer(question("nas", dns.TypeMX, 0)); r != nil {
		t.Errorf("MX: %v", r)
	}
}

// TestHostFilesChange: both files are read again when they are replaced, written or gone, not more often than they may be
// looked at.
func TestHostFilesChange(t *testing.T) {
	h := hostWith(t, 1, "nameserver 127.0.0.2\nsearch a.test\noptions ndots:2 timeout:3 inet6 trust-ad", "10.0.0.5 nas")
	look := func() {
		h.conf.looked, h.hosts.looked = time.Time{}, time.Time{}
	}
	nas := func() []string {
		known, _, _ := h.hosts.get(h.HostsPath, nil, parseHosts)
		return answersOf(known.answer(question("nas", dns.TypeA, 0)))
	}
	if got := h.Search(); !slices.Equal(got, []string{"a.test"}) {
		t.Fatalf("search %v", got)
	}
	if got := h.Options(); !slices.Equal(got, []string{"ndots:2", "trust-ad"}) {
		t.Fatalf("options %v", got)
	}
	h.rest(netip.MustParseAddr("127.0.0.2"))
	nas()
	replacement := h.Path + ".new"
	write(t, replacement, "nameserver 127.0.0.3\nsearch b.test")
	if err := os.Rename(replacement, h.Path); err != nil {
		t.Fatal(err)
	}
	write(t, h.HostsPath, "10.0.0.66 nas")
	if got := h.Search(); !slices.Equal(got, []string{"a.test"}) {
		t.Fatalf("looked again at once: %v", got)
	}
	look()
	if got := h.Search(); !slices.Equal(got, []string{"b.test"}) || len(h.resting) != 0 {
		t.Fatalf("after the change: %v, resting %v", got, h.resting)
	}
	if got := nas(); !slices.Equal(got, []string{"10.0.0.66"}) {
		t.Fatalf("hosts after the change: %v", got)
	}
	info, _ := os.Stat(h.HostsPath)
	write(t, h.HostsPath, "10.0.0.7 nas")
	os.Chtimes(h.HostsPath, time.Time{}, info.ModTime())
	look()
	if got := nas(); !slices.Equal(got, []string{"10.0.0.7"}) {
		t.Fatalf("another size at the same time: %v", got)
	}
	os.Remove(h.Path)
	look()
	if got := h.config().servers; !slices.Equal(got, addrs("127.0.0.3")) {
		t.Fatalf("while it is away: %v", got)
	}
}

func TestHostWithoutFiles(t *testing.T) {
	h := &Host{Path: filepath.Join(t.TempDir(), "none"), HostsPath: filepath.Join(t.TempDir(), "none")}
	if c := h.config(); !slices.Equal(c.servers, addrs("127.0.0.1")) {
		t.Fatalf("%+v", c)
	}
}

func TestParseConf(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       conf
	}{
		{"empty", "", conf{servers: addrs("127.0.0.1"), timeout: 2 * time.Second, attempts: 2}},
		{"all of it", "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n# nameserver 1.1.1.1\n;x\noptions timeout:99 attempts:9 rotate use-vc ndots:99 edns0\n",
			conf{servers: addrs("192.0.2.1", "fe80::1%eth0"), timeout: 30 * time.Second, attempts: 5, rotate: true, tcp: true, options: []string{"ndots:15", "edns0"}}},
		{"the last of domain and search wins", "search a.test b.test\ndomain C.test. d.test\n",
			conf{servers: addrs("127.0.0.1"), timeout: 2 * time.Second, attempts: 2, search: []string{"c.test"}}},
		{"what is no name is no search domain", "search . a..b ok.test\nnameserver nonsense\n",
			conf{servers: addrs("127.0.0.1"), timeout: 2 * time.Second, attempts: 2, search: []string{"ok.test"}}},
		{"too many", strings.Repeat("nameserver 192.0.2.1\n", 100), conf{servers: addrs(slices.Repeat([]string{"192.0.2.1"}, maxNameservers)...), timeout: 2 * time.Second, attempts: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parseConf(strings.NewReader(c.text))
			if diff := cmp.Diff(fmt.Sprintf("%+v", c.want), fmt.Sprintf("%+v", got)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// TestHostManyAtOnce: questions do not wait for each other.
func TestHostManyAtOnce(t *testing.T) {
	all := make(chan struct{})
	var here sync.WaitGroup
	here.Add(50)
	go func() { here.Wait(); close(all) }()
	_, port := serveZone(t, "127.0.0.2", 0, func(n string, q *dns.Msg) []*dns.Msg {
		here.Done()
		<-all // nobody is answered before everybody has asked
		return answers(world)(n, q)
	})
	h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:30 attempts:1", "")
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			if _, err := h.Exchange(t.Context(), question("api.test", dns.TypeA, 0)); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
}

func FuzzParseFiles(f *testing.F) {
	f.Add("nameserver 127.0.0.1\nsearch a b\noptions ndots:-1 timeout:x", "10.0.0.1 a b")
	f.Fuzz(func(t *testing.T, conf, hosts string) {
		c := parseConf(strings.NewReader(conf))
		if len(c.servers) == 0 || c.timeout <= 0 || c.attempts <= 0 {
			t.Fatalf("%+v", c)
		}
		for name := range parseHosts(io.LimitReader(strings.NewReader(hosts), maxFile)).addrs {
			if nameOf(name).odd {
				t.Fatalf("odd name %q", name)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(string, *dns.Msg) []*dns.Msg
		ok     bool
	}{
		"answers": {answers(world), true}, "refuses": {says(dns.RcodeRefused), true}, "fails": {says(dns.RcodeServerFailure), false}, "silent": {silent, false},
	} {
		_, port := serveZone(t, "127.0.0.2", 0, c.handle)
		h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:1 attempts:1", "")
		if err := h.Probe(t.Context()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDown(t *testing.T) {
	gone := errors.New("tunnel is down")
	if _, err := (Down{gone}).Exchange(t.Context(), question("api.test", dns.TypeA, 0)); !errors.Is(err, gone) {
		t.Fatal(err)
	}
}
