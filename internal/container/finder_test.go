//go:build linux

package container

import (
	"errors"
	"slices"
	"testing"
)

func TestListNamesTheBoxBehindEachPort(t *testing.T) {
	newBridge(t, "br0")
	a, b := newBox(t, ""), newBox(t, "")
	a.plug(t, "br0", "porta", "10.9.0.2/24", "fd09::2/64")
	b.plug(t, "br0", "portb", "10.9.0.3/24")
	f := open(t, t.TempDir())
	got := list(t, f, "br0")
	for _, c := range []struct {
		box  *aBox
		port string
		want []string
	}{{a, "porta", []string{"10.9.0.2", "fd09::2"}}, {b, "portb", []string{"10.9.0.3"}}} {
		who := got[c.port]
		if who.Err != nil || who.PID != c.box.pid || who.Runtime != RuntimeNone || who.Interface != "eth0" || len(who.MAC) != 6 || who.Cookie == 0 {
			t.Errorf("%s: %#v", c.port, who)
		}
		for _, a := range addrs(c.want...) {
			if !slices.Contains(who.Addresses, a) {
				t.Errorf("%s: %v lacks %v", c.port, who.Addresses, a)
			}
		}
		if err := f.Check(who); err != nil {
			t.Errorf("%s: check: %v", c.port, err)
		}
	}
	if got["porta"].Cookie == got["portb"].Cookie {
		t.Error("two namespaces have one cookie")
	}
}

func TestNoBridge(t *testing.T) {
	f := open(t, t.TempDir())
	for _, name := range []string{"none0", "lo"} {
		if _, err := f.List(name); !errors.Is(err, ErrNoBridge) {
			t.Errorf("list %s: %v, want %v", name, err, ErrNoBridge)
		}
	}
}
