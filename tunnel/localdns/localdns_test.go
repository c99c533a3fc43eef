package localdns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/internal/testdns"
	"github.com/weir-dev/weir/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const staging = "staging-db.internal.example.com"

var office = testdns.Zone{
	staging + ". A":                    {staging + ". 60 A 10.0.1.50"},
	staging + ". AAAA":                 {},
	"both.example. AAAA":               {"both.example. 60 AAAA 2001:db8::1"},
	"www.example. A":                   {"www.example. 60 CNAME cdn.example.", "cdn.example. 60 A 192.0.2.2"},
	"_db._tcp.internal.example. SRV":   {"_db._tcp.internal.example. 60 SRV 0 0 5432 " + staging + "."},
	"txt.example. TXT":                 {`txt.example. 60 TXT "v=1"`},
	"svc.example. HTTPS":               {"svc.example. 60 HTTPS 1 . alpn=h3 ipv4hint=10.0.1.50"},
	"50.1.0.10.in-addr.arpa. PTR":      {"50.1.0.10.in-addr.arpa. 60 PTR " + staging + "."},
	"odd.example. TYPE65280":           {`odd.example. 60 TYPE65280 \# 3 010203`},
	"only-here.example. A":             {"only-here.example. 60 A 10.0.0.1"},
	"localhost-of-the-user.example. A": {"localhost-of-the-user.example. 60 A 127.0.0.1"},
}

// machine is the resolver of a machine with these files.
func machine(t *testing.T, port uint16, conf, hosts string) (r *Resolver, confPath string) {
	t.Helper()
	dir := t.TempDir()
	c := Config{ResolvConf: filepath.Join(dir, "resolv.conf"), Hosts: filepath.Join(dir, "hosts"), Port: port}
	write(t, c.ResolvConf, conf)
	write(t, c.Hosts, hosts)
	r = New(c)
	t.Cleanup(func() { r.Close() })
	return r, c.ResolvConf
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestTypes: what programs of the machine are told, by type.
func TestTypes(t *testing.T) {
	_, port := testdns.Serve(t, "127.0.0.53", 0, office.Answers()) // where systemd-resolved has its stub
	r, _ := machine(t, port, "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example", "10.9.9.9 nas.home nas\n127.0.0.1 localhost")
	for _, c := range []struct {
		q     string
		qtype uint16
		rcode int
		want  []string
	}{
		{staging, dns.TypeA, 0, []string{"10.0.1.50"}},
		{strings.ToUpper(staging), dns.TypeA, 0, []string{"10.0.1.50"}},
		{staging, dns.TypeAAAA, 0, nil},
		{"none.internal.example.com", dns.TypeA, dns.RcodeNameError, nil},
		{"both.example", dns.TypeAAAA, 0, []string{"2001:db8::1"}},
		{"www.example", dns.TypeA, 0, []string{"cdn.example.", "192.0.2.2"}},
		{"_db._tcp.internal.example", dns.TypeSRV, 0, []string{"0 0 5432 " + staging + "."}},
		{"txt.example", dns.TypeTXT, 0, []string{`"v=1"`}},
		{"svc.example", dns.TypeHTTPS, 0, []string{`1 . alpn="h3" ipv4hint="10.0.1.50"`}},
		{"50.1.0.10.in-addr.arpa", dns.TypePTR, 0, []string{staging + "."}},
		{"odd.example", 65280, 0, []string{`\# 3 010203`}},
		{"localhost-of-the-user.example", dns.TypeA, 0, []string{"127.0.0.1"}}, // whether it may be dialled is not for us
		{"nas.home", dns.TypeA, 0, []string{"10.9.9.9"}},
		{"nas", dns.TypeA, 0, []string{"10.9.9.9"}},
		{"nas.home", dns.TypeAAAA, 0, nil},
		{"nas.home", dns.TypeHTTPS, 0, nil},
		{"9.9.9.10.in-addr.arpa", dns.TypePTR, 0, []string{"nas.home.", "nas."}},
		{"only-here", dns.TypeA, dns.RcodeNameError, nil}, // the search list is for whoever asks
		{staging, dns.TypeAXFR, dns.RcodeRefused, nil},
	} {
		t.Run(c.q+" "+dns.Type(c.qtype).String(), func(t *testing.T) {
			q := testdns.Question(c.q, c.qtype, 1232)
			before := q.Copy()
			got, err := r.Exchange(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if got.Rcode != c.rcode || !slices.Equal(testdns.Data(got), c.want) {
				t.Errorf("got %v", got)
			}
			if got.Id != q.Id || !slices.Equal(got.Question, q.Question) || !got.Response || q.String() != before.String() {
				t.Errorf("of %v\nmade %v", q, got)
			}
		})
	}
}

// TestQuestionMadeAnew: of a hostile question only name, type and flag bits reach the user's nameservers.
func TestQuestionMadeAnew(t *testing.T) {
	s, port := testdns.Serve(t, "127.0.0.1", 0, func(_ string, q *dns.Msg) []*dns.Msg {
		r, _ := office.Exchange(context.Background(), q)
		r.AuthenticatedData = q.AuthenticatedData
		r.SetEdns0(4096, false)
		r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Nsid: "6162"}, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer}}
		r.Extra = append(r.Extra, &dns.TSIG{Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256})
		return []*dns.Msg{r}
	})
	r, _ := machine(t, port, "nameserver 127.0.0.1", "")
	q := testdns.Question("StAgInG-db.internal.example.com", dns.TypeA, 4096)
	q.AuthenticatedData, q.CheckingDisabled = true, true
	q.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{198, 51, 100, 0}},
		&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("stolen")},
	}
	q.Answer = []dns.RR{testdns.Record("x.example. 60 TXT stolen")}
	got, err := r.Exchange(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	sent := s.Messages()[0]
	if opt := sent.IsEdns0(); opt == nil || len(opt.Option) != 0 || len(sent.Answer) != 0 || sent.Question[0].Name != staging+"." {
		t.Errorf("sent %v", sent)
	}
	if !sent.AuthenticatedData || !sent.CheckingDisabled || !got.AuthenticatedData {
		t.Errorf("bits: sent %v, got %v", sent.MsgHdr, got.MsgHdr)
	}
	opt := got.IsEdns0()
	if opt == nil || len(opt.Option) != 1 || opt.Option[0].Option() != dns.EDNS0EDE || got.IsTsig() != nil || len(got.Extra) != 1 {
		t.Errorf("got %v", got)
	}
	if got, err := r.Exchange(t.Context(), testdns.Question(staging, dns.TypeA, 0)); err != nil || got.IsEdns0() != nil {
		t.Errorf("without EDNS: %v %v", got, err)
	}
}

// TestLongAnswers: an answer that was cut is asked for again over TCP, and up to 64 KiB of it come whole.
func TestLongAnswers(t *testing.T) {
	big := testdns.Zone{"five.example. TXT": nil, "sixty.example. TXT": nil}
	for i := range 250 {
		text := fmt.Sprintf(`60 TXT "%03d%s"`, i, strings.Repeat("x", 230))
		big["sixty.example. TXT"] = append(big["sixty.example. TXT"], "sixty.example. "+text)
		if i < 20 {
			big["five.example. TXT"] = append(big["five.example. TXT"], "five.example. "+text)
		}
	}
	s, port := testdns.Serve(t, "127.0.0.1", 0, big.Cut())
	r, _ := machine(t, port, "nameserver 127.0.0.1", "")
	for name, records := range map[string]int{"five.example": 20, "sixty.example": 250} {
		got, err := r.Exchange(t.Context(), testdns.Question(name, dns.TypeTXT, 1232))
		if err != nil || got.Truncated || len(got.Answer) != records {
			t.Fatalf("%s: %v, %d records", name, err, len(got.Answer))
		}
		raw, err := got.Pack()
		if err != nil || len(raw) < 200*records {
			t.Errorf("%s: %v, %d octets", name, err, len(raw))
		}
	}
	if asked := s.Asked(); len(asked) != 4 || r.Counters()["upstream-tcp"] != 2 {
		t.Errorf("asked %v, %v", asked, r.Counters())
	}
}

// TestFailover: a nameserver that fails, or is not there, is passed over; when all fail that is the answer.
func TestFailover(t *testing.T) {
	_, port := testdns.Serve(t, "127.0.1.1", 0, testdns.Says(dns.RcodeServerFailure))
	testdns.Serve(t, "127.0.1.2", port, office.Answers())
	testdns.Serve(t, "127.0.1.3", port, testdns.Silent)
	for _, c := range []struct {
		name, servers string
		rcode         int
		want          []string
		code          tunnel.Code
	}{
		{name: "SERVFAIL, then an answer", servers: "1 2", want: []string{"10.0.1.50"}},
		{name: "silence, then an answer", servers: "3 2", want: []string{"10.0.1.50"}},
		{name: "nobody, then an answer", servers: "4 2", want: []string{"10.0.1.50"}},
		{name: "SERVFAIL", servers: "1", rcode: dns.RcodeServerFailure},
		{name: "silence", servers: "3", code: tunnel.TimedOut},
		{name: "nobody", servers: "4", code: tunnel.NameFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := "options timeout:1 attempts:1\n"
			for _, n := range strings.Fields(c.servers) {
				conf += "nameserver 127.0.1." + n + "\n"
			}
			r, _ := machine(t, port, conf, "")
			got, err := r.Exchange(t.Context(), testdns.Question(staging, dns.TypeA, 0))
			if tunnel.CodeOf(err) != c.code {
				t.Fatalf("%v", err)
			}
			if err == nil && (got.Rcode != c.rcode || !slices.Equal(testdns.Data(got), c.want)) {
				t.Errorf("%v", got)
			}
			var told *tunnel.Error
			if errors.As(err, &told) && strings.Contains(told.Error(), "127.") {
				t.Errorf("the edge is told of the user's nameservers: %v", told)
			}
		})
	}
}

// TestConfEditedLive: a VPN comes up and writes resolv.conf; the next questions go to its nameserver.
func TestConfEditedLive(t *testing.T) {
	_, port := testdns.Serve(t, "127.0.2.1", 0, testdns.Zone{}.Answers())
	testdns.Serve(t, "127.0.2.2", port, office.Answers())
	r, conf := machine(t, port, "nameserver 127.0.2.1", "")
	ask := func() *dns.Msg {
		got, err := r.Exchange(t.Context(), testdns.Question(staging, dns.TypeA, 0))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(); got.Rcode != dns.RcodeNameError {
		t.Fatalf("before: %v", got)
	}
	write(t, conf, "nameserver 127.0.2.2")
	for deadline := time.Now().Add(30 * time.Second); len(ask().Answer) == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change was not seen")
		}
	}
	write(t, conf, "nameserver 127.0.2.1\n# down again")
	r.Renew() // the network has changed: nothing is taken for what it was
	if got := ask(); got.Rcode != dns.RcodeNameError {
		t.Fatalf("after: %v", got)
	}
}

// TestBounds: beyond so many questions at one time none is asked, none takes longer than it may, and Close ends all.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{ResolvConf: "none", Hosts: "none"})
		r.ask = func(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("ask: %w", ctx.Err())
		}
		codes := make(chan tunnel.Code, 2*MaxInFlight)
		var all sync.WaitGroup
		start := func() {
			all.Go(func() {
				_, err := r.Exchange(t.Context(), testdns.Question(staging, dns.TypeA, 0))
				codes <- tunnel.CodeOf(err)
			})
		}
		begin := time.Now()
		for range MaxInFlight {
			start()
		}
		synctest.Wait()
		start()
		if code := <-codes; code != tunnel.Limit || r.Counters()["drop-in-flight"] != 1 {
			t.Errorf("one too many: %v, %v", code, r.Counters())
		}
		all.Wait()
		if took := time.Since(begin); took != MaxTime {
			t.Errorf("took %v", took)
		}
		for range MaxInFlight {
			if code := <-codes; code != tunnel.TimedOut {
				t.Fatalf("%v", code)
			}
		}
		start()
		synctest.Wait()
		r.Close()
		r.Close()
		if code := <-codes; code != tunnel.NameFailed {
			t.Errorf("closed: %v", code)
		}
		if c := r.Counters(); c["questions"] != MaxInFlight+1 || c["failed"] != MaxInFlight+1 {
			t.Errorf("%v", c)
		}
		all.Wait()
	})
}

// TestNoQuestion: what is none is refused before anybody is asked.
func TestNoQuestion(t *testing.T) {
	r, _ := machine(t, 1, "nameserver 127.0.0.1", "")
	two := testdns.Question(staging, dns.TypeA, 0)
	two.Question = append(two.Question, two.Question[0])
	reply := testdns.Question(staging, dns.TypeA, 0)
	reply.Response = true
	for name, q := range map[string]*dns.Msg{"none": {}, "two": two, "an answer": reply} {
		if _, err := r.Exchange(t.Context(), q); tunnel.CodeOf(err) != tunnel.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	chaos := testdns.Question("version.bind", dns.TypeTXT, 0)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := testdns.Question(staging, dns.TypeA, 0)
	update.Opcode = dns.OpcodeUpdate
	for name, q := range map[string]*dns.Msg{"CHAOS": chaos, "UPDATE": update} {
		if got, err := r.Exchange(t.Context(), q); err != nil || got.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if c := r.Counters(); c["refused"] != 5 || c["upstream-exchanges"] != 0 {
		t.Errorf("%v", c)
	}
}

// FuzzFinish: whatever an answer is like, what is handed on can be packed, and is one to the question.
func FuzzFinish(f *testing.F) {
	r, _ := office.Exchange(context.Background(), testdns.Question("www.example", dns.TypeA, 0))
	r.SetEdns0(1232, true)
	raw, _ := r.Pack()
	f.Add(raw, true)
	f.Add(raw, false)
	f.Fuzz(func(t *testing.T, raw []byte, edns bool) {
		got := new(dns.Msg)
		if got.Unpack(raw) != nil {
			return
		}
		q := testdns.Question(staging, dns.TypeA, 0)
		if edns {
			q.SetEdns0(stub.UDPSize, false)
		}
		r := finish(q, got)
		packed, err := r.Pack()
		if err != nil {
			return // miekg/dns unpacks some records that it does not pack; the caller sees the error
		}
		if len(packed) > maxMessage {
			t.Fatalf("%d octets", len(packed))
		}
		back := new(dns.Msg)
		if err := back.Unpack(packed); err == nil && (back.Id != q.Id || back.IsEdns0() != nil && !edns) {
			t.Fatalf("%v", back)
		}
	})
}
