package edge

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestUDPPerSecond: a sandbox that floods is held to its share, empty datagrams count, and another sandbox is not touched.
func TestUDPPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Edge{}
		flood, other := e.Sandbox(owner("s")), e.Sandbox(owner("s"))
		for name, size := range map[string]int{"of 1200 octets": 1200, "empty": 0} {
			datagrams := make([][]byte, 64)
			for i := range datagrams {
				datagrams[i] = make([]byte, size)
			}
			most := udpPerSecond / (size + udpOverhead)
			for range 100_000 { // the burst
				flood.allowUDP(datagrams)
			}
			sent := 0
			for range 10_000 {
				time.Sleep(100 * time.Microsecond)
				sent += flood.allowUDP(datagrams)
			}
			if want := min(most, 10_000*len(datagrams)); sent > want+1 || sent < want*9/10 {
				t.Errorf("%d datagrams %s were let through in a second, want %d", sent, name, want)
			}
			if n := other.allowUDP(datagrams); n != len(datagrams) {
				t.Errorf("of another sandbox's %d", n)
			}
		}
	})
}

// TestHandshakeLimits: one address that hammers is refused, another one is not.
func TestHandshakeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakeLimits()
		from := func(a string, n int) (ok int) {
			for range n {
				if h.allow(netip.MustParseAddr(a), true) {
					ok++
				}
			}
			return ok
		}
		if n := from("192.0.2.1", 1000); n != ofOneBurst {
			t.Errorf("%d of 1000 were let through", n)
		}
		if n := from("2001:db8::1", 1000) + from("2001:db8::ffff", 1000); n != ofOneBurst {
			t.Errorf("%d of 2000 of one IPv6 network were let through", n)
		}
		if n := from("192.0.2.2", 1); n != 1 {
			t.Error("another address was refused")
		}
		for i := range 2 * maxSources {
			h.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), true)
		}
		if len(h.sources) > maxSources {
			t.Errorf("%d addresses are remembered", len(h.sources))
		}
		time.Sleep(time.Second)
		if n := from("192.0.2.1", 1000); n > ofOneBurst {
			t.Errorf("%d in the second after", n)
		}
	})
}
