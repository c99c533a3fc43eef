package netstack

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/resolver"
)

const (
	leakFlows   = 50_000
	leakWorkers = 32

	// leakHeap is what the heap may have grown by: maps that keep their size, pools, destinations that the log knows.
	leakHeap = 4 << 20
)

// TestNothingIsLeftOfFlows carries many flows of each kind through the whole data path, with the sandbox's end in memory,
// and wants every goroutine, descriptor and octet of them back.
func TestNothingIsLeftOfFlows(t *testing.T) {
	flows := leakFlows
	if testing.Short() {
		flows /= 10
	}
	d := newDataPath(t, time.Second)
	d.many(t, leakWorkers*32) // what is made once is there
	before := d.settled(t, usage{goroutines: 1 << 20, descriptors: 1 << 20, heap: 1 << 40})
	d.many(t, flows)
	after := d.settled(t, before)
	t.Logf("%d flows: %+v before, %+v after; %v", flows, before, after, d.outcome())
	if after.goroutines > before.goroutines || after.descriptors > before.descriptors || after.heap > before.heap+leakHeap {
		t.Errorf("not all came back: %+v before %d flows, %+v after", before, flows, after)
	}
}

// wholeDataPath is stack, gate, resolver and event log as cmd/weir joins them, between a second stack and servers on the
// host's loopback.
type wholeDataPath struct {
	*peer
	gate   *flow.Gate
	book   *event.Log
	memory *resolver.Memory
	server net.Listener
	echo   net.PacketConn
	done   [4]atomic.Int64 // by kind of flow: those that went as they should
}

func newDataPath(t *testing.T, idle time.Duration) *wholeDataPath {
	t.Helper()
	d := &wholeDataPath{memory: resolver.NewMemory(resolver.Limits{}, nil)}
	d.server = hostListener(t, func(c *net.TCPConn) { io.Copy(c, c) })
	d.echo = hostEcho(t)
	rules, err := policy.New(policy.Config{Mode: "enforce", Allow: []string{"192.0.2.1:1-1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if d.book, err = event.OpenFile(filepath.Join(t.TempDir(), "events.jsonl"), event.Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.book.Close() })
	d.gate = &flow.Gate{
		App: "leak", Sandbox: "s", Door: "netstack", Policy: rules, Events: d.book,
		Names: flow.Names{Recall: d.memory.Recall, Hold: d.memory.Hold,
			Confirm: func(context.Context, string, string, netip.Addr) bool { return false }},
		Routes: map[string]flow.Dialer{"direct": d},
	}
	limits := Limits{UDPIdle: idle, UDPUnanswered: idle, UDPIdleDNS: idle}
	d.peer = newPeer(t, Config{Limits: limits}, d.gate)
	d.serveDNS(t)
	return d
}

// DialContext implements flow.Dialer: every address is a server on the loopback.
func (d *wholeDataPath) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	to := d.server.Addr().String()
	if network == "udp" {
		to = d.echo.LocalAddr().String()
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (d *wholeDataPath) serveDNS(t *testing.T) {
	s := &resolver.Server{
		Upstream: resolver.Down{Err: io.EOF}, Memory: d.memory, Enforce: true,
		Decide: func(string, uint16) resolver.Verdict {
			return resolver.Verdict{Rule: "builtin:default", Reason: "dns-blocked"}
		},
		Record: func(q resolver.Query) {
			d.book.Emit(&event.Event{Time: time.Now(), Details: &event.DNSQuery{Hostname: q.Hostname, Verdict: q.Verdict, Reason: q.Reason}})
		},
	}
	pc, err := d.ListenPacket(gatewayPort(53))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { s.Serve(ctx, pc, nil); close(served) }()
	t.Cleanup(func() { cancel(); <-served })
}

// hostEcho is a UDP server on the host's loopback.
func hostEcho(t *testing.T) net.PacketConn {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
	return pc
}

// many makes n flows, a few at one time: TCP that is carried, TCP that is denied, UDP and DNS.
func (d *wholeDataPath) many(t *testing.T, n int) {
	var work sync.WaitGroup
	var next atomic.Int64
	for range leakWorkers {
		work.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := d.one(int(i)); err != nil {
					t.Errorf("flow %d: %v", i, err)
					return
				}
			}
		})
	}
	work.Wait()
}

func (d *wholeDataPath) one(i int) (err error) {
	kind := [8]int{0, 1, 1, 1, 2, 2, 3, 3}[i%8]
	switch port := 1 + i%900; kind {
	case 0:
		err = d.carried(fmt.Sprintf("192.0.2.1:%d", port))
	case 1:
		if c, derr := d.dial(fmt.Sprintf("192.0.2.2:%d", port)); derr == nil {
			c.Close()
			err = fmt.Errorf("a denied flow was accepted")
		}
	case 2:
		err = d.datagram(fmt.Sprintf("192.0.2.1:%d", port), []byte("hello"))
	case 3:
		q, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA).Pack()
		err = d.datagram(gatewayPort(53).String(), q)
	}
	if err == nil {
		d.done[kind].Add(1)
	}
	return err
}

func (d *wholeDataPath) carried(to string) error {
	c, err := d.dial(to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	c.CloseWrite()
	_, err = io.ReadAll(c)
	return err
}

// datagram sends one and waits a moment for the answer: a datagram may be lost.
func (d *wholeDataPath) datagram(to string, payload []byte) error {
	at := fullAddress(netip.MustParseAddrPort(to))
	c, err := gonet.DialUDP(d.inside, nil, &at, networkProtocol(netip.MustParseAddrPort(to).Addr()))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(payload); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	c.Read(make([]byte, 2048))
	return nil
}

// idleDatagramFlow is what an idle UDP flow may cost: two goroutines, a socket, and no buffer of the size of a datagram.
const idleDatagramFlow = 24 << 10

func TestIdleDatagramFlowCost(t *testing.T) {
	const flows = 500
	d := newDataPath(t, 3*time.Second)
	d.gate.Events = nothing{}
	memory := func() int64 {
		runtime.GC()
		runtime.GC() // the first one takes pools empty
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	d.many(t, 1000)
	eventually(t, "all flows are over", func() bool { return d.gate.Flows() == 0 })
	before := memory()
	for i := range flows {
		at := fullAddress(netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", 1+i)))
		c, err := gonet.DialUDP(d.inside, nil, &at, networkProtocol(guest4))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(patience))
		c.Write([]byte("hello"))
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	held := memory() - before
	live := int64(d.gate.Flows()) // on a busy machine the first ones have become idle for good
	if live < flows/10 {
		t.Fatalf("%d of %d flows live", live, flows)
	}
	if per := held / live; per > idleDatagramFlow {
		t.Errorf("%d octets for an idle flow, want at most %d", per, idleDatagramFlow)
	}
}

// nothing is a book that nobody reads.
type nothing struct{}

func (nothing) Emit(*event.Event) {}

// usage is what the process holds.
type usage struct {
	goroutines, descriptors int
	heap                    int64
}

// settled waits until nothing is on its way and the process holds no more than want, or for as long as patience lasts.
func (d *wholeDataPath) settled(t *testing.T, want usage) (u usage) {
	t.Helper()
	eventually(t, "all flows are over", func() bool { return d.gate.Flows() == 0 })
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		last := u
		u = usage{runtime.NumGoroutine(), len(open), int64(m.HeapAlloc + m.StackInuse)}
		within := u.goroutines <= want.goroutines && u.descriptors <= want.descriptors && u.heap <= want.heap+leakHeap
		if within && u.goroutines == last.goroutines && u.descriptors == last.descriptors || time.Now().After(end) {
			return u
		}
	}
}

func (d *wholeDataPath) outcome() string {
	return fmt.Sprintf("%d carried, %d denied, %d datagrams, %d questions", d.done[0].Load(), d.done[1].Load(), d.done[2].Load(), d.done[3].Load())
}
