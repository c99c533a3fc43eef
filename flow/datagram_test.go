package flow_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/testnet"
)

// slowDialer opens its upstream only when it is let.
type slowDialer struct {
	let      chan struct{}
	upstream net.Conn
}

func (d slowDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	<-d.let
	return d.upstream, nil
}

// A program that ends right after its only datagram has sent it all the same.
func TestDrainWaitsForFirstDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort("192.0.2.1:8125")
		w := newWorld(t, enforce("192.0.2.1:8125/udp"))
		inside, gates := testnet.Pair()
		ours, theirs := testnet.Pair()
		d := slowDialer{make(chan struct{}), ours}
		w.gate.Routes["direct"] = d
		ctx, cancel := context.WithCancel(t.Context())
		handled := make(chan struct{})
		go func() {
			defer close(handled)
			w.gate.Handle(ctx, flow.Arrival{Network: "udp", Src: source, Dst: at,
				Accept: func() (net.Conn, error) { return gates, nil }, Reject: func(flow.Reason) error { return nil }})
		}()
		inside.Write([]byte("counter:1|c"))
		synctest.Wait()
		drained := make(chan struct{})
		go func() { w.gate.Drain(ctx); close(drained) }()
		synctest.Wait()
		select {
		case <-drained:
			t.Fatal("drained before the datagram was sent")
		default:
		}
		close(d.let)
		<-drained
		b := make([]byte, 64)
		if n, _ := theirs.Read(b); string(b[:n]) != "counter:1|c" {
			t.Fatalf("upstream got %q", b[:n])
		}
		cancel()
		<-handled
	})
}

// What came between the datagrams of a hello is judged by itself, and so is a DTLS hello that comes later.
func TestDatagramsBesideTheHello(t *testing.T) {
	body := dtlsHello("evil.example")
	n := byte(len(body))
	dtls := append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, n + 12, 1, 0, 0, n, 0, 0, 0, 0, 0, 0, 0, n}, body...)
	foreign := slices.Concat([]byte{0xc0, 0xfa, 0xce, 0xb0, 0x0c, 1, 'x', 0}, make([]byte, 100))
	for _, c := range []struct {
		name      string
		datagrams [][]byte
		leave     int
	}{
		{"nothing known", [][]byte{[]byte("\x01ne"), []byte("\x02wo")}, 2},
		{"a DTLS hello later", [][]byte{[]byte("\x01ne"), dtls, []byte("\x02wo")}, 1},
		{"a foreign version later", [][]byte{[]byte("\x01ne"), foreign, []byte("\x02wo")}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := netip.AddrPortFrom(goodAddr.Addr(), 443)
				w := newWorld(t, enforce("good.example"))
				w.asked[at.Addr()] = []string{"good.example"}
				inside, gates := testnet.Pair()
				out := &packets{}
				w.gate.Routes["direct"] = out
				ctx, cancel := context.WithCancel(t.Context())
				handled := make(chan struct{})
				go func() {
					defer close(handled)
					w.gate.Handle(ctx, flow.Arrival{Network: "udp", Src: source, Dst: at,
						Accept: func() (net.Conn, error) { return gates, nil }, Reject: func(flow.Reason) error { return nil }})
				}()
				for _, d := range c.datagrams {
					inside.Write(d)
					synctest.Wait()
				}
				cancel()
				<-handled
				if n := out.written(); n != c.leave {
					t.Fatalf("%d datagrams left, want %d", n, c.leave)
				}
			})
		})
	}
}

// dtlsHello is the body of a ClientHello.
func dtlsHello(name string) []byte {
	list := append([]byte{0, byte(len(name) + 3), 0, 0, byte(len(name))}, name...)
	body := slices.Concat([]byte{0xfe, 0xfd}, make([]byte, 32), []byte{0, 0, 0, 2, 0x13, 1, 1, 0, 0, byte(len(list) + 4), 0, 0, 0, byte(len(list))}, list)
	return body
}

// packets is a way out that counts what is written to it.
type packets struct {
	mu sync.Mutex
	n  int
}

func (p *packets) DialContext(context.Context, string, string) (net.Conn, error) {
	ours, theirs := testnet.Pair()
	go func() {
		b := make([]byte, 4096)
		for {
			if _, err := theirs.Read(b); err != nil {
				return
			}
			p.mu.Lock()
			p.n++
			p.mu.Unlock()
		}
	}()
	return ours, nil
}

func (p *packets) written() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}
