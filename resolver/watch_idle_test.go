package resolver

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

// idleWatch is what a watched flow may cost while nothing passes: two goroutines and what is known of it, no buffer.
const idleWatch = 32 << 10

// connected is two sockets of the loopback, connected to each other.
func connected(t *testing.T) (a, b *net.UDPConn) {
	t.Helper()
	first, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := first.LocalAddr().(*net.UDPAddr)
	if b, err = net.DialUDP("udp4", nil, addr); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if a, err = net.DialUDP("udp4", addr, b.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestWatchIdleCost(t *testing.T) {
	const flows = 200
	s, _ := enforcing(nil)
	asked := packed(t, testdns.Question("api.test", dns.TypeA, 1232))
	memory := func() int64 {
		runtime.GC()
		runtime.GC() // the first one takes pools empty
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer done.Wait()
	defer cancel()
	start := func() {
		client, inner := connected(t)
		outer, server := connected(t)
		done.Go(func() { s.Watch(ctx, Explicit{Network: "udp", Server: google, Route: "direct"}, inner, outer) })
		client.Write(asked)
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := server.Read(make([]byte, 512)); n != len(asked) || err != nil {
			t.Fatalf("the question came as %d octets, %v", n, err)
		}
	}
	start()
	before := memory()
	for range flows {
		start()
	}
	if per := (memory() - before) / flows; per > idleWatch {
		t.Errorf("%d octets for an idle flow, want at most %d", per, idleWatch)
	} else {
		t.Logf("%d octets for an idle flow", per)
	}
}
