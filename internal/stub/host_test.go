package stub

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
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/internal/hostname"
	"github.com/weir-dev/weir/internal/testdns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var world = testdns.Zone{
	"api.test. A": {"api.test. 60 A 192.0.2.1"},
	". NS":        {". 60 NS a.root.test."},
}

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

// servers are nameservers on one port.
func servers(port uint16, addrs ...string) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr(a), port))
	}
	return list
}

func TestHostAsksTheNameservers(t *testing.T) {
	big := testdns.Zone{"big.test. A": nil}
	for i := range 100 {
		big["big.test. A"] = append(big["big.test. A"], fmt.Sprintf("big.test. 60 A 192.0.2.%d", i))
	}
	cut := func(tcp bool) testdns.Handler {
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
	forged := func(change func(r *dns.Msg)) testdns.Handler {
		return func(_ string, q *dns.Msg) []*dns.Msg {
			lie := new(dns.Msg).SetReply(q)
			lie.Question = slices.Clone(q.Question)
			lie.RecursionAvailable, lie.Answer = true, []dns.RR{testdns.Record("api.test. 60 A 203.0.113.6")}
			change(lie)
			truth, _ := world.Exchange(context.Background(), q)
			return []*dns.Msg{lie, truth}
		}
	}
	api := []string{"192.0.2.1"}
	for row, c := range []struct {
		name    string
		options string
		servers []testdns.Handler // 127.0.ROW.2, .3, ...; nil: nobody listens
		q       string
		rcode   int
		answers int
		want    []string
		asks    []int // how often each was asked
	}{
		{name: "one answers", servers: []testdns.Handler{world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "NXDOMAIN is an answer", servers: []testdns.Handler{world.Answers(), world.Answers()}, q: "none.test", rcode: dns.RcodeNameError, asks: []int{1, 0}},
		{name: "the first is not there", servers: []testdns.Handler{nil, world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{0, 1}},
		{name: "the first is silent", options: "timeout:1", servers: []testdns.Handler{testdns.Silent, world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first fails", servers: []testdns.Handler{testdns.Says(dns.RcodeServerFailure), world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first refuses", servers: []testdns.Handler{testdns.Says(dns.RcodeRefused), world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "the first is lame", servers: []testdns.Handler{testdns.Says(dns.RcodeSuccess), world.Answers()}, q: "api.test", answers: 1, want: api, asks: []int{1, 1}},
		{name: "all fail", servers: []testdns.Handler{testdns.Says(dns.RcodeServerFailure), testdns.Says(dns.RcodeRefused)}, q: "api.test", rcode: dns.RcodeServerFailure, asks: []int{1, 1}},
		{name: "no EDNS there", servers: []testdns.Handler{func(n string, q *dns.Msg) []*dns.Msg {
			if q.IsEdns0() != nil {
				return []*dns.Msg{{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}}}
			}
			return world.Answers()(n, q)
		}}, q: "api.test", answers: 1, want: api, asks: []int{2}},
		{name: "cut, then TCP", servers: []testdns.Handler{cut(true)}, q: "big.test", answers: 100, asks: []int{2}},
		{name: "cut, and no TCP there: half is more than none", options: "timeout:1", servers: []testdns.Handler{cut(false)}, q: "big.test", answers: 10, asks: []int{2}},
		{name: "use-vc", options: "use-vc", servers: []testdns.Handler{cut(true)}, q: "big.test", answers: 100, asks: []int{1}},
		{name: "a forged ID", servers: []testdns.Handler{forged(func(r *dns.Msg) { r.Id++ })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a forged name", servers: []testdns.Handler{forged(func(r *dns.Msg) { r.Question[0].Name = "apj.test." })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a forged type", servers: []testdns.Handler{forged(func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeAAAA })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "no question in it", servers: []testdns.Handler{forged(func(r *dns.Msg) { r.Question = nil })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a question that comes back", servers: []testdns.Handler{forged(func(r *dns.Msg) { r.Response = false })}, q: "api.test", answers: 1, want: api, asks: []int{1}},
		{name: "a flood of forged replies: TCP", servers: []testdns.Handler{func(n string, q *dns.Msg) []*dns.Msg {
			if n == "tcp" {
				return world.Answers()(n, q)
			}
			lie := new(dns.Msg).SetReply(q)
			lie.Id++
			return slices.Repeat([]*dns.Msg{lie}, maxForged)
		}}, q: "api.test", answers: 1, want: api, asks: []int{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var port uint16
			var servers []*testdns.Server
			conf := "options " + c.options + "\n"
			// The last one takes a free port and the others that port on their addresses.
			for i := len(c.servers) - 1; i >= 0; i-- {
				ip := fmt.Sprintf("127.0.%d.%d", row+1, i+2) // a network of its own for each row
				conf = "nameserver " + ip + "\n" + conf
				n := &testdns.Server{}
				if c.servers[i] != nil {
					n, port = testdns.Serve(t, ip, port, c.servers[i])
				}
				servers = append([]*testdns.Server{n}, servers...)
			}
			h := hostWith(t, port, conf, "")
			q := testdns.Question(c.q, dns.TypeA, 1232)
			before := q.Copy()
			r, err := h.Exchange(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before.String(), q.String()); diff != "" {
				t.Errorf("the question was changed: %s", diff)
			}
			if r.Rcode != c.rcode || len(r.Answer) != c.answers || c.want != nil && !slices.Equal(testdns.Data(r), c.want) || !slices.Equal(r.Question, q.Question) {
				t.Errorf("answer %v", r)
			}
			for i, n := range servers {
				if got := n.Asked(); len(got) != c.asks[i] {
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
	pc, ln := testdns.ListenBoth(t, "127.0.0.2", 0)
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
		r.Answer = []dns.RR{testdns.Record("api.test. 60 A 203.0.113.6")}
		lie, _ := r.Pack()
		other.WriteTo(lie, from)
		truth, _ := world.Exchange(context.Background(), q)
		b, _ := truth.Pack()
		pc.WriteTo(b, from)
		asked <- from.(*net.UDPAddr)
	}()
	h := hostWith(t, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port(), "nameserver 127.0.0.2", "")
	r, err := h.Exchange(t.Context(), testdns.Question("api.test", dns.TypeA, 0))
	if err != nil || !slices.Equal(testdns.Data(r), []string{"192.0.2.1"}) {
		t.Fatalf("%v %v", r, err)
	}
	<-asked
}

func TestHostNobodyAnswers(t *testing.T) {
	_, port := testdns.Serve(t, "127.0.0.2", 0, testdns.Silent)
	h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:1 attempts:1", "")
	if _, err := h.Exchange(t.Context(), testdns.Question("api.test", dns.TypeA, 0)); err == nil {
		t.Fatal("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Exchange(ctx, testdns.Question("api.test", dns.TypeA, 0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// TestHostRestsTheDead: a nameserver that is not there is asked last from then on.
func TestHostRestsTheDead(t *testing.T) {
	_, port := testdns.Serve(t, "127.0.100.3", 0, world.Answers())
	h := hostWith(t, port, "nameserver 127.0.100.2\nnameserver 127.0.100.3", "")
	if _, err := h.Exchange(t.Context(), testdns.Question("api.test", dns.TypeA, 0)); err != nil {
		t.Fatal(err)
	}
	if got := h.order(h.config()); !slices.Equal(got, servers(port, "127.0.100.3", "127.0.100.2")) || h.Counters()["upstream-failovers"] != 1 {
		t.Fatalf("%v %v", got, h.Counters())
	}
}

// TestHostOrder: rotation, and those that did not answer go last for a while.
func TestHostOrder(t *testing.T) {
	h := hostWith(t, 53, "nameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.4", "")
	c := h.config()
	if got := h.order(c); !slices.Equal(got, servers(53, "127.0.0.2", "127.0.0.3", "127.0.0.4")) {
		t.Errorf("%v", got)
	}
	h.rest(netip.MustParseAddrPort("127.0.0.2:53"))
	if got := h.order(c); !slices.Equal(got, servers(53, "127.0.0.3", "127.0.0.4", "127.0.0.2")) {
		t.Errorf("resting: %v", got)
	}
	c.Rotate = true
	var first []string
	h.resting = nil
	for range 4 {
		first = append(first, h.order(c)[0].String())
	}
	if diff := cmp.Diff([]string{"127.0.0.2:53", "127.0.0.3:53", "127.0.0.4:53", "127.0.0.2:53"}, first); diff != "" {
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
			r, err := h.Exchange(t.Context(), testdns.Question(c.q, c.qtype, 0))
			if err != nil || r.Rcode != dns.RcodeSuccess || !slices.Equal(testdns.Data(r), c.want) {
				t.Fatalf("%v %v", r, err)
			}
		})
	}
	if r := h.hosts.value.answer(testdns.Question("nas", dns.TypeMX, 0)); r != nil {
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
		return testdns.Data(known.answer(testdns.Question("nas", dns.TypeA, 0)))
	}
	if got := h.Search(); !slices.Equal(got, []string{"a.test"}) {
		t.Fatalf("search %v", got)
	}
	if got := h.Options(); !slices.Equal(got, []string{"ndots:2", "trust-ad"}) {
		t.Fatalf("options %v", got)
	}
	h.rest(netip.MustParseAddrPort("127.0.0.2:53"))
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
	if got := h.config().Servers; !slices.Equal(got, servers(1, "127.0.0.3")) {
		t.Fatalf("while it is away: %v", got)
	}
}

func TestHostWithoutFiles(t *testing.T) {
	h := &Host{Path: filepath.Join(t.TempDir(), "none"), HostsPath: filepath.Join(t.TempDir(), "none")}
	if c := h.config(); !slices.Equal(c.Servers, servers(53, "127.0.0.1")) {
		t.Fatalf("%+v", c)
	}
}

func TestParseConf(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Conf
	}{
		{"empty", "", Conf{Servers: servers(53, "127.0.0.1"), Timeout: 2 * time.Second, Attempts: 2}},
		{"all of it", "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n# nameserver 1.1.1.1\n;x\noptions timeout:99 attempts:9 rotate use-vc ndots:99 edns0\n",
			Conf{Servers: servers(53, "192.0.2.1", "fe80::1%eth0"), Timeout: 30 * time.Second, Attempts: 5, Rotate: true, TCP: true, options: []string{"ndots:15", "edns0"}}},
		{"the last of domain and search wins", "search a.test b.test\ndomain C.test. d.test\n",
			Conf{Servers: servers(53, "127.0.0.1"), Timeout: 2 * time.Second, Attempts: 2, search: []string{"c.test"}}},
		{"what is no name is no search domain", "search . a..b ok.test\nnameserver nonsense\n",
			Conf{Servers: servers(53, "127.0.0.1"), Timeout: 2 * time.Second, Attempts: 2, search: []string{"ok.test"}}},
		{"too many", strings.Repeat("nameserver 192.0.2.1\n", 100), Conf{Servers: servers(53, slices.Repeat([]string{"192.0.2.1"}, MaxServers)...), Timeout: 2 * time.Second, Attempts: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ParseConf(strings.NewReader(c.text))
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
	_, port := testdns.Serve(t, "127.0.0.2", 0, func(n string, q *dns.Msg) []*dns.Msg {
		here.Done()
		<-all // nobody is answered before everybody has asked
		return world.Answers()(n, q)
	})
	h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:30 attempts:1", "")
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			if _, err := h.Exchange(t.Context(), testdns.Question("api.test", dns.TypeA, 0)); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
}

func FuzzParseFiles(f *testing.F) {
	f.Add("nameserver 127.0.0.1\nsearch a b\noptions ndots:-1 timeout:x", "10.0.0.1 a b")
	f.Fuzz(func(t *testing.T, conf, hosts string) {
		c := ParseConf(strings.NewReader(conf))
		if len(c.Servers) == 0 || c.Timeout <= 0 || c.Attempts <= 0 {
			t.Fatalf("%+v", c)
		}
		for name := range parseHosts(io.LimitReader(strings.NewReader(hosts), maxFile)).addrs {
			if n, err := hostname.Normalize(name); err != nil || n != name {
				t.Fatalf("odd name %q", name)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		handle testdns.Handler
		ok     bool
	}{
		"answers": {world.Answers(), true}, "refuses": {testdns.Says(dns.RcodeRefused), true}, "fails": {testdns.Says(dns.RcodeServerFailure), false}, "silent": {testdns.Silent, false},
	} {
		_, port := testdns.Serve(t, "127.0.0.2", 0, c.handle)
		h := hostWith(t, port, "nameserver 127.0.0.2\noptions timeout:1 attempts:1", "")
		if err := h.Probe(t.Context()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
