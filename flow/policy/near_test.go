package policy

import (
	"net/netip"
	"testing"
)

// TestPrivateByName: on the user's own machine a name rule leads to private addresses, and guards stay what they are.
func TestPrivateByName(t *testing.T) {
	for _, near := range []bool{false, true} {
		more, err := ParseRule("extra.example:22", AllowRule, Pos{File: "asked.yaml", Line: 4})
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(Config{Allow: []string{"*.corp.example:443", "127.0.0.1:5432"}, More: []Rule{more}, PrivateByName: near})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			flow      string
			far, near string
		}{
			{"10.0.1.60:443 asked=wiki.corp.example", "private", ""},
			{"10.0.1.60:22 asked=wiki.corp.example", "private", "port"},
			{"10.0.1.60:443 asked=wiki.other.example", "private", "private"},
			{"10.0.1.60:22 asked=extra.example", "", ""},
			{"127.0.0.1:443 asked=wiki.corp.example", "guard", "guard"},
			{"169.254.169.254:443 asked=wiki.corp.example", "guard", "guard"},
		} {
			want := c.far
			if near {
				want = c.near
			}
			if d := p.Decide(flow(t, c.flow)); d.Reason != want {
				t.Errorf("near=%t %s: %s %s, want %q", near, c.flow, d.Verdict, d.Reason, want)
			}
		}
		for addr, want := range map[string]bool{"10.0.1.60": near, "127.0.0.1": near, "127.0.0.2": false, "169.254.169.254": false, "192.0.2.1": true} {
			if ok, _ := p.AnswerAllowed("wiki.corp.example", netip.MustParseAddr(addr)); ok != want {
				t.Errorf("near=%t: %s in an answer: %t", near, addr, ok)
			}
		}
	}
	audit, err := New(Config{Mode: ModeAudit, PrivateByName: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := audit.Decide(flow(t, "10.0.1.60:443")); d.Verdict != WouldDeny {
		t.Errorf("audit: %s %s", d.Verdict, d.Reason)
	}
	if d := audit.Decide(flow(t, "127.0.0.1:443")); d.Verdict != Deny {
		t.Errorf("audit, guarded: %s %s", d.Verdict, d.Reason)
	}
}
