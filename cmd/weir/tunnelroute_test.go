//go:build linux && !client

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/testdns"
	"github.com/weir-dev/weir/internal/testnet"
	"github.com/weir-dev/weir/resolver"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// userMachine is the other end of a tunnel, as the edge process sees it: names, and servers by the address that is asked for.
type userMachine struct {
	zone    testdns.Zone
	servers map[string]func(*testnet.Conn)
	fail    error

	mu    sync.Mutex
	opens []tunnel.Open
	asked []string
}

var laptop = tunnel.Identity{Space: "acme", Client: "laptop"}

func (u *userMachine) OpenStream(_ context.Context, o tunnel.Open) (tunnel.Stream, error) {
	u.mu.Lock()
	u.opens = append(u.opens, o)
	u.mu.Unlock()
	serve := u.servers[o.Addr.String()]
	switch {
	case u.fail != nil:
		return nil, u.fail
	case serve == nil:
		return nil, tunnel.Errorf(tunnel.Refused, "")
	}
	ours, theirs := testnet.Pair()
	go serve(theirs)
	return laptopStream{ours}, nil
}

func (u *userMachine) OpenDatagrams(context.Context, tunnel.Open) (tunnel.Datagrams, error) {
	return nil, u.fail
}

func (u *userMachine) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	if u.fail != nil {
		return nil, tunnel.Identity{}, u.fail
	}
	m := new(dns.Msg)
	if err := m.Unpack(q.Message); err != nil {
		return nil, tunnel.Identity{}, err
	}
	u.mu.Lock()
	u.asked = append(u.asked, m.Question[0].Name)
	u.mu.Unlock()
	r, err := u.zone.Exchange(ctx, m)
	if err != nil {
		return nil, tunnel.Identity{}, err
	}
	raw, err := r.Pack()
	return raw, laptop, err
}

type laptopStream struct{ *testnet.Conn }

func (laptopStream) By() tunnel.Identity { return laptop }
func (s laptopStream) Abort(tunnel.Code) { s.Conn.Abort() }

// book keeps events.
type book struct {
	mu     sync.Mutex
	events []*event.Event
}

func (b *book) Emit(e *event.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// find returns the first event of a kind, without what changes from run to run.
func (b *book) find(t *testing.T, kind event.Kind) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Details.Kind() == kind {
			e.Time = time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)
			switch d := e.Details.(type) {
			case *event.Close:
				d.Duration = 0
			case *event.DNSQuery:
				d.Duration = 0
			}
			return string(e.AppendJSON(nil))
		}
	}
	t.Fatalf("no %s among %d events", kind, len(b.events))
	return ""
}

// tunnelled is a room whose tunnel leads to u by a real handoff; a nil u is a room without one. ask is where its DNS answers.
func tunnelled(t *testing.T, cfg policy.Config, u *userMachine) (r *room, ask string, b *book) {
	t.Helper()
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b = &book{}
	r = &room{app: "postgres-mcp", sandbox: "7f3a9c", policy: p, events: b}
	local := map[string][]netip.Addr{}
	if u != nil {
		r.edge, r.tunnelAlias = handTo(t, u), tunnelAlias()
		local[tunnelHostName] = []netip.Addr{tunnelHost4}
	}
	host := testdns.Zone{"staging-db.internal.example.com. A": {"staging-db.internal.example.com. 60 A 198.51.100.66"}, "api.example. A": {"api.example. 60 A 192.0.2.1"}}
	r.openResolver(host, true, local, nil)
	r.openGate("netstack", newDirect(nil, nil))
	r.gate.Hold = 20 * time.Millisecond // nothing here says more than its first bytes
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); r.dns.Serve(ctx, pc, nil) }()
	t.Cleanup(func() { cancel(); <-served })
	return r, pc.LocalAddr().String(), b
}

// handTo is a data path's end of a handoff to u.
func handTo(t *testing.T, u *userMachine) *handoff.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "edge")
	defer theirs.Close()
	c, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		handoff.Serve(context.Background(), c.(*net.UnixConn), tunnel.Owner{Space: "acme"}, u, handoff.Options{})
	}()
	conn, err := handoff.NewConn(os.NewFile(uintptr(fds[0]), "edge"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); <-served })
	return conn
}

// askRoom asks the room's DNS for an address.
func askRoom(t *testing.T, at, name string) (rcode string, addrs []string) {
	t.Helper()
	r, err := dns.Exchange(testdns.Question(name, dns.TypeA, 0), at)
	if err != nil {
		t.Fatal(err)
	}
	return dns.RcodeToString[r.Rcode], testdns.Data(r)
}

// contractFile is the policy of the contract's example: the rule stands in line 19.
var contractFile = []byte(strings.Repeat("#\n", 13) + `version: 1
apps:
  postgres-mcp:
    route: tunnel
    allow:
      - "staging-db.internal.example.com:5432"
`)

// arrive lets a TCP flow of the program arrive; refused is how it was turned away, if it was.
func arrive(t *testing.T, r *room, dst string) (program *testnet.Conn, refused <-chan flow.Reason, done <-chan struct{}) {
	t.Helper()
	inside, gates := testnet.Pair()
	inside.SetDeadline(time.Now().Add(10 * time.Second))
	no, end := make(chan flow.Reason, 8), make(chan struct{})
	go func() {
		defer close(end)
		r.gate.Handle(context.Background(), flow.Arrival{
			Network: "tcp", Src: netip.MustParseAddrPort("10.77.0.2:51234"), Dst: netip.MustParseAddrPort(dst),
			Accept: func() (net.Conn, error) { return gates, nil },
			Reject: func(why flow.Reason) error { no <- why; gates.Abort(); return nil },
		})
	}()
	t.Cleanup(func() { inside.Close(); <-end })
	return inside, no, end
}

func postgres(c *testnet.Conn) {
	b := make([]byte, 5)
	io.ReadFull(c, b)
	c.Write([]byte("one row"))
	c.Close()
}

// TestContractEvent: the staging database of the contract's example, with the event of the contract's example.
func TestContractEvent(t *testing.T) {
	file, err := policy.ParseFile("weir.yaml", contractFile)
	if err != nil {
		t.Fatal(err)
	}
	u := &userMachine{
		zone:    testdns.Zone{"staging-db.internal.example.com. A": {"staging-db.internal.example.com. 60 A 10.0.1.50"}},
		servers: map[string]func(*testnet.Conn){"10.0.1.50:5432": postgres},
	}
	r, ask, b := tunnelled(t, policy.Config{File: file, App: "postgres-mcp"}, u)
	r.gate.Process = func(_ string, _, _ netip.AddrPort, found func(*event.Process)) {
		found(&event.Process{PID: 7, Exe: "/usr/bin/node", Args: []string{"node", "server.js"}})
	}
	if rcode, addrs := askRoom(t, ask, "staging-db.internal.example.com"); rcode != "NOERROR" || !cmp.Equal(addrs, []string{"10.0.1.50"}) {
		t.Fatalf("answered %s %q", rcode, addrs)
	}
	program, _, done := arrive(t, r, "10.0.1.50:5432")
	program.Write([]byte("query"))
	program.CloseWrite()
	if got, err := io.ReadAll(program); string(got) != "one row" {
		t.Errorf("the program got %q, %v", got, err)
	}
	<-done
	const client = `"client":"acme/laptop",` // a field that is added
	for _, want := range []string{
		`{"time":"2026-11-21T10:00:00.123456Z","event":"network-connect","app":"postgres-mcp","sandbox":"7f3a9c","flow":"7f3a9c-1",` +
			`"details":{"hostname":"staging-db.internal.example.com","name_source":"dns","names":["staging-db.internal.example.com"],` +
			`"dest_ip":"10.0.1.50","dest_port":5432,"src_ip":"10.77.0.2","src_port":51234,"protocol":"tcp","route":"tunnel",` + client +
			`"verdict":"allow","rule":"weir.yaml:19","reason":"","door":"netstack","sni":"","http_host":"","alpn":[],"ech":false,` +
			`"process":{"pid":7,"exe":"/usr/bin/node","args":["node","server.js"]}}}`,
		`{"time":"2026-11-21T10:00:00.123456Z","event":"network-close","app":"postgres-mcp","sandbox":"7f3a9c","flow":"7f3a9c-1",` +
			`"details":{"hostname":"staging-db.internal.example.com","dest_ip":"10.0.1.50","dest_port":5432,"protocol":"tcp","route":"tunnel",` + client +
			`"verdict":"allow","bytes_sent":5,"bytes_received":7,"duration_ms":0,"close":"fin"}}`,
		`{"time":"2026-11-21T10:00:00.123456Z","event":"dns-query","app":"postgres-mcp","sandbox":"7f3a9c","flow":"",` +
			`"details":{"hostname":"staging-db.internal.example.com","qtype":"A","server":"` + ask + `","rcode":"NOERROR","answers":["10.0.1.50"],"route":"tunnel",` + client +
			`"verdict":"allow","rule":"weir.yaml:19","reason":"","duration_ms":0}}`,
	} {
		_, rest, _ := strings.Cut(want, `"event":"`)
		kind, _, _ := strings.Cut(rest, `"`)
		if diff := cmp.Diff(want, b.find(t, event.Kind(kind))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
	want := tunnel.Open{Owner: tunnel.Owner{Space: "acme"}, Flow: "7f3a9c-1", Network: "tcp", Addr: netip.MustParseAddrPort("10.0.1.50:5432"), Names: []string{"staging-db.internal.example.com"}}
	if diff := cmp.Diff([]tunnel.Open{want}, u.opens, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("the edge was asked (-want +got):\n%s", diff)
	}
}

// TestNoTunnel: without a client there is no way out, and never another one.
func TestNoTunnel(t *testing.T) {
	for name, u := range map[string]*userMachine{"no edge": nil, "no client": {fail: tunnel.Errorf(tunnel.NoClient, "")}} {
		t.Run(name, func(t *testing.T) {
			r, ask, b := tunnelled(t, policy.Config{Mode: "enforce", Allow: []string{"staging-db.internal.example.com:5432", "10.0.1.50:5432"}, Route: "tunnel"}, u)
			if rcode, addrs := askRoom(t, ask, "staging-db.internal.example.com"); rcode == "NOERROR" || len(addrs) > 0 {
				t.Errorf("answered %s %q", rcode, addrs)
			}
			if got := b.find(t, event.KindDNSQuery); !strings.Contains(got, `"route":"tunnel","verdict":"deny"`) || !strings.Contains(got, `"reason":"no-tunnel"`) {
				t.Errorf("recorded %s", got)
			}
			_, refused, done := arrive(t, r, "10.0.1.50:5432")
			if why := <-refused; why != flow.Denied {
				t.Errorf("refused with %d", why)
			}
			<-done
			if got := b.find(t, event.KindConnect); !strings.Contains(got, `"route":"deny","verdict":"deny"`) || !strings.Contains(got, `"reason":"no-tunnel"`) {
				t.Errorf("recorded %s", got)
			}
		})
	}
}

// TestUsersLoopback: the user's own loopback has a name inside, which a rule has to say; no other name leads there.
func TestUsersLoopback(t *testing.T) {
	const name = tunnelHostName
	for _, c := range []struct {
		name   string
		cfg    policy.Config
		asked  string
		answer []string
		opened string
	}{
		{"a rule names it", policy.Config{Allow: []string{name + ":5432 via tunnel"}}, name, []string{"10.77.0.3"}, "127.0.0.1:5432"},
		{"a rule names another port", policy.Config{Allow: []string{name + ":80 via tunnel"}}, name, []string{"10.77.0.3"}, ""},
		{"nobody named it, in audit", policy.Config{Mode: "audit", Route: "tunnel"}, name, []string{"10.77.0.3"}, ""},
		{"another name for it", policy.Config{Allow: []string{"evil.example:5432 via tunnel"}}, "evil.example", nil, ""},
		{"the loopback's own address", policy.Config{Allow: []string{"evil2.example:5432 via tunnel"}}, "evil2.example", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &userMachine{
				zone:    testdns.Zone{"evil.example. A": {"evil.example. 60 A 10.77.0.3"}, "evil2.example. A": {"evil2.example. 60 A 127.0.0.1"}},
				servers: map[string]func(*testnet.Conn){"127.0.0.1:5432": postgres},
			}
			r, ask, b := tunnelled(t, c.cfg, u)
			if rcode, addrs := askRoom(t, ask, c.asked); rcode != "NOERROR" || !cmp.Equal(addrs, c.answer) {
				t.Errorf("%s is %s %q", c.asked, rcode, addrs)
			}
			program, refused, done := arrive(t, r, "10.77.0.3:5432")
			if c.opened == "" {
				<-refused
				<-done
				if len(u.opens) > 0 {
					t.Errorf("the edge was asked for %v", u.opens)
				}
				return
			}
			program.Write([]byte("query"))
			io.ReadAll(program)
			program.Close()
			<-done
			if len(u.opens) != 1 || u.opens[0].Addr.String() != c.opened {
				t.Errorf("the edge was asked for %v", u.opens)
			}
			if got := b.find(t, event.KindConnect); !strings.Contains(got, `"hostname":"tunnel.weir.internal"`) || !strings.Contains(got, `"dest_ip":"10.77.0.3"`) {
				t.Errorf("recorded %s", got)
			}
		})
	}
}

// TestRouteOfNames: names of the tunnel are asked there, all others on the host, and each is evidence for its own route only.
func TestRouteOfNames(t *testing.T) {
	u := &userMachine{zone: testdns.Zone{
		"staging-db.internal.example.com. A": {"staging-db.internal.example.com. 60 A 10.0.1.50"},
		"api.example. A":                     {"api.example. 60 A 10.0.1.51"},
	}}
	r, ask, _ := tunnelled(t, policy.Config{Allow: []string{"staging-db.internal.example.com:5432 via tunnel", "api.example"}}, u)
	for name, want := range map[string]string{"staging-db.internal.example.com": "10.0.1.50", "api.example": "192.0.2.1"} {
		if _, addrs := askRoom(t, ask, name); !cmp.Equal(addrs, []string{want}) {
			t.Errorf("%s is %q, want %s", name, addrs, want)
		}
	}
	u.mu.Lock()
	asked := u.asked
	u.mu.Unlock()
	if !cmp.Equal(asked, []string{"staging-db.internal.example.com."}) {
		t.Errorf("the user's machine was asked for %q", asked)
	}
	for _, c := range []struct {
		route, addr string
		want        []string
	}{
		{"tunnel", "10.0.1.50", []string{"staging-db.internal.example.com"}}, {"direct", "10.0.1.50", nil},
		{"direct", "192.0.2.1", []string{"api.example"}}, {"tunnel", "192.0.2.1", nil},
	} {
		if names, _, _ := r.memory.Recall(c.route, netip.MustParseAddr(c.addr)); !cmp.Equal(names, c.want) {
			t.Errorf("%s by %s: %q", c.addr, c.route, names)
		}
	}
}

// TestTunnelCarriesNoPing: what the tunnel does not carry is declined.
func TestTunnelCarriesNoPing(t *testing.T) {
	route := &tunnelRoute{edge: &userMachine{}}
	_, _, err := route.DialFlow(t.Context(), flow.Trip{Network: "icmp", Dst: netip.MustParseAddrPort("10.0.1.50:0")})
	var declined *flow.Declined
	if !errors.As(err, &declined) || declined.Reason != "no-tunnel" || declined.Rule != "builtin:tunnel-icmp" {
		t.Errorf("%v", err)
	}
}

// TestUnavailableResolver: nobody to ask is told apart from an answer that did not come.
func TestUnavailableResolver(t *testing.T) {
	for code, want := range map[tunnel.Code]string{tunnel.NoClient: "no-tunnel", tunnel.Revoked: "no-tunnel", tunnel.Limit: "limit", tunnel.NameFailed: ""} {
		up := tunnelResolver(&userMachine{fail: tunnel.Errorf(code, "")}, "")
		_, err := up.Exchange(t.Context(), testdns.Question("api.example", dns.TypeA, 0))
		var none *resolver.Unavailable
		if errors.As(err, &none); err == nil || (none != nil) != (want != "") || none != nil && none.Reason != want {
			t.Errorf("%v: %v", code, err)
		}
	}
}

// roomless is a UDP flow of an edge that takes two datagrams at a time and then none, until it is waited for.
type roomless struct {
	edgeDatagrams
	dropped uint64
	taken   int
}

func (r *roomless) SendSome(datagrams [][]byte, wait bool) (n int, octets int64, err error) {
	if wait {
		r.dropped++ // one that waited in vain
		return len(datagrams), 0, nil
	}
	n = min(2, len(datagrams))
	r.taken += n
	return n, int64(n), nil
}

func (r *roomless) Dropped() uint64  { return r.dropped }
func (r *roomless) Close() error     { return nil }
func (r *roomless) MaxDatagram() int { return 1400 }

// TestTunnelDatagrams: what the edge has no room for stays with the door, which has a queue; what is lost is counted once.
func TestTunnelDatagrams(t *testing.T) {
	var lost atomic.Uint64
	edge := &roomless{}
	c, err := newTunnelDatagrams(edge, &lost)
	if err != nil {
		t.Fatal(err)
	}
	d := c.(flow.BatchUpstream)
	if n, _, err := d.Send(make([][]byte, 5), false); n != 2 || err != nil || lost.Load() != 0 {
		t.Errorf("%d taken, %v, %d lost", n, err, lost.Load())
	}
	for want := range uint64(3) {
		if lost.Load() != want {
			t.Errorf("%d lost, want %d", lost.Load(), want)
		}
		d.Send(make([][]byte, 1), true)
	}
	if _, err := c.Write(make([]byte, maxTunnelDatagram+1)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a datagram that no UDP carries: %v", err)
	}
	if _, err := newTunnelDatagrams(struct{ tunnel.Datagrams }{edge}, &lost); err == nil {
		t.Error("a flow without batches was taken")
	}
}
