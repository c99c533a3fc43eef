package client

import (
	"net/netip"
	"testing"
)

// TestLeadsHere: the kernel of this machine says which addresses are its own.
func TestLeadsHere(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.200.3.4": true, "::1": true, "255.255.255.255": true, "192.0.2.7": false, "2001:db8::7": false,
	} {
		a := netip.MustParseAddr(addr)
		if got := leadsHere(a); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
		if got := sourceLeadsHere(a); got != want && addr != "255.255.255.255" {
			t.Errorf("%s by its source: %v, want %v", addr, got, want)
		}
	}
	own, err := LocalAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if a.IsLinkLocalUnicast() || inContainer() {
			continue // of an interface; a gateway
		}
		if !leadsHere(a) {
			t.Errorf("%s is this machine's own", a)
		}
	}
}
