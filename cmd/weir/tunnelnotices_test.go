//go:build linux && !client

package main

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tunnel"
)

// TestUserDenials: what the user's machine denies is said on the hosted side, once for each destination, with what allows it
// there; nothing else is.
func TestUserDenials(t *testing.T) {
	p, err := policy.New(policy.Config{Route: "tunnel", Allow: []string{"@any:*"}})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	u := &userDenials{Sink: event.Tee(), notices: &notices{ui: &ui{w: &said}, policy: p}}
	closed := func(name, dst string, failed error) {
		d := &event.Close{Hostname: name, Dst: netip.MustParseAddrPort(dst), Protocol: "tcp", Route: "tunnel", Verdict: "allow", Close: "fin"}
		if failed != nil {
			d.Close, d.Error = "error", failed.Error()
		}
		u.Emit(&event.Event{Details: d})
	}
	denied := tunnel.Errorf(tunnel.Denied, "guard: \x1b[31mno")
	closed("db.corp.example", "10.0.1.50:5432", denied)
	closed("db.corp.example", "10.0.1.50:5432", denied)
	closed("", "10.0.1.51:22", denied)
	closed(tunnelHostName, "10.77.0.3:5432", denied)
	closed("up.example", "10.0.1.52:443", nil)
	closed("down.example", "10.0.1.52:443", tunnel.Errorf(tunnel.Refused, ""))
	want := `weir: the user's machine denied db.corp.example:5432; allow it there with weir connect --allow db.corp.example:5432
weir: the user's machine denied 10.0.1.51:22; allow it there with weir connect --allow 10.0.1.51:22
weir: the user's machine denied tunnel.weir.internal:5432; allow it there with weir connect --allow-loopback 5432
`
	if said.String() != want {
		t.Errorf("said\n%s\nwant\n%s", said.String(), want)
	}
	said.Reset()
	u.notices.denied(&event.Event{Details: &event.Connect{Hostname: "db.corp.example", Dst: netip.MustParseAddrPort("10.0.1.50:5432"), Protocol: "tcp",
		Verdict: "deny", Reason: "no-tunnel", Rule: "builtin:tunnel"}})
	if want := "weir: denied db.corp.example:5432 (no-tunnel); no client of its space is connected: on the user's machine, weir connect --tunnel https://HOST:PORT\n"; said.String() != want {
		t.Errorf("said %q, want %q", said.String(), want)
	}
}
