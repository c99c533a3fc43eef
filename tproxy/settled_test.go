//go:build linux

package tproxy

import (
	"net/netip"
	"testing"
)

// TestSettled: copies are known by their sequence number, up to a bound; another connection from the same port is not one.
func TestSettled(t *testing.T) {
	at := func(port int) heldSYN {
		return heldSYN{src: netip.AddrPortFrom(inside.Addr4, uint16(port)), dst: netip.MustParseAddrPort("198.51.100.10:7"), seq: uint32(port) * 3}
	}
	var s settled
	if s.has(at(1)) {
		t.Error("one is known that never came")
	}
	for port := range maxSettled + 10 {
		s.add(at(port + 1))
		s.add(at(port + 1))
	}
	if n := len(s.seq); n != maxSettled || len(s.keys) != maxSettled {
		t.Errorf("%d are remembered in %d places, want %d", n, len(s.keys), maxSettled)
	}
	if s.has(at(10)) || !s.has(at(11)) || !s.has(at(maxSettled+10)) {
		t.Error("the oldest are not the ones that made room")
	}
	again := at(20)
	again.seq++
	if s.has(again) {
		t.Error("another connection from the same port counts as a copy")
	}
	s.add(again)
	if !s.has(again) || s.has(at(20)) {
		t.Error("the later one does not count")
	}
}
