package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/testdns"
)

// stuffed is a question with as many records beside it as fit into size octets.
func stuffed(t *testing.T, size int) []byte {
	q := testdns.Question("api.test", dns.TypeA, 0)
	raw := packed(t, q)
	for n := 0; len(raw)+11 <= size; n++ {
		raw = append(raw, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)
		binary.BigEndian.PutUint16(raw[10:], uint16(n+1))
	}
	return raw
}

// TestLongQuestions: a message far longer than any question is not read as one, and its records do not wait along.
func TestLongQuestions(t *testing.T) {
	up := &spy{Upstream: world}
	s, _ := enforcing(up)
	if r := unpacked(t, s.handle(t.Context(), stuffed(t, maxQuestion), "", 0)); r.Rcode != dns.RcodeSuccess || len(up.got) != 1 {
		t.Errorf("of %d octets: %v", maxQuestion, r)
	}
	if r := unpacked(t, s.handle(t.Context(), stuffed(t, maxQuestion+11), "", 0)); r.Rcode != dns.RcodeFormatError || len(up.got) != 1 {
		t.Errorf("of more: %v", r)
	}
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() { s.serveConn(t.Context(), server); close(done) }()
	client.Write(binary.BigEndian.AppendUint16(nil, maxQuestion+1))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("over TCP: %v", err)
	}
	<-done
	if n := s.Counters()["malformed"]; n != 2 {
		t.Errorf("counted %d", n)
	}
}

// flooded is a socket that always has another question and whose answers go nowhere.
type flooded struct {
	net.PacketConn
	raw     []byte
	left    atomic.Int64
	writing atomic.Int64
	closed  chan struct{}
}

func (f *flooded) ReadFrom(b []byte) (int, net.Addr, error) {
	if f.left.Add(-1) < 0 {
		<-f.closed
		return 0, nil, net.ErrClosed
	}
	runtime.Gosched()
	return copy(b, f.raw), nil, nil
}

func (f *flooded) WriteTo([]byte, net.Addr) (int, error) {
	f.writing.Add(1)
	<-f.closed
	return 0, net.ErrClosed
}

func (f *flooded) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.77.0.1:53"))
}

func (f *flooded) Close() error { close(f.closed); return nil }

// TestDatagramFlood: a client that asks faster than it can be answered does not make goroutines without end.
func TestDatagramFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flood = 5000
		s, _ := enforcing(world)
		f := &flooded{raw: packed(t, testdns.Question("evil.test", dns.TypeA, 0)), closed: make(chan struct{})}
		f.left.Store(flood)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Serve(ctx, f, nil); close(done) }()
		synctest.Wait()
		if n := f.writing.Load(); n != maxDatagrams || s.Counters()["udp-dropped"] != flood-maxDatagrams {
			t.Errorf("%d at work, %d dropped of %d", n, s.Counters()["udp-dropped"], flood)
		}
		cancel()
		<-done
	})
}

// TestMemoryIsBoundedInOctets: names and chains as long as they get fill the memory by octets before they do by number, and
// what flows live on stays.
func TestMemoryIsBoundedInOctets(t *testing.T) {
	m := NewMemory(Limits{}, nil)
	label := strings.Repeat("x", 60)
	long := func(i int) string { return fmt.Sprintf("n%d.%s.%s.%s.example", i, label, label, label) }
	held := netip.MustParseAddr("198.51.100.1")
	m.Learn("direct", "kept.example", nil, []netip.Addr{held}, 0)
	release := m.Hold(held)
	defer release()
	for i := range 10000 {
		var chain []string
		for j := range MaxChain {
			chain = append(chain, long(1000*i+j))
		}
		addr := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		m.Learn("direct", long(i), chain[:1], []netip.Addr{addr}, 0)
		m.Learn("direct", long(i), chain, []netip.Addr{addr}, 0) // it grows
	}
	c := m.Counters()
	if c["evidence-octets"] > uint64(DefaultOctets) || c["evidence-octets"] < uint64(DefaultOctets/2) || c["evidence-evicted"] == 0 {
		t.Errorf("%v", c)
	}
	if asked, _, _ := m.Recall("direct", held); !slices.Equal(asked, []string{"kept.example"}) {
		t.Errorf("the name that a flow lives on is gone: %v", asked)
	}
	sum := 0
	for _, e := range m.own.entries {
		for _, b := range e.bindings {
			sum += b.size()
		}
	}
	if sum != m.own.octets {
		t.Errorf("%d octets are counted, %d are there", m.own.octets, sum)
	}
}
