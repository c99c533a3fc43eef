package wire

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// FuzzHeaderOfAnything: whatever somebody has opened, the header that is made of it is one that the other side takes: a session
// ends for those that it does not take, and with it the flows of others.
func FuzzHeaderOfAnything(f *testing.F) {
	f.Add("7f3a9c-12", "postgres-mcp", "7f3a9c", "db.example", []byte{10, 0, 0, 1}, uint16(5432), uint8(1))
	f.Add(strings.Repeat("\xff", 300), "\x00", "\u202e", strings.Repeat("\xc3", 255), bytes.Repeat([]byte{0xff}, 16), uint16(0), uint8(20))
	f.Fuzz(func(t *testing.T, flow, app, sandbox, name string, addr []byte, port uint16, names uint8) {
		a, ok := netip.AddrFromSlice(addr)
		if !ok {
			return
		}
		h := Header{Kind: TCP, Open: tunnel.Open{Owner: tunnel.Owner{App: app, Sandbox: sandbox}, Flow: flow, Addr: netip.AddrPortFrom(a, port)}}
		for range names {
			h.Open.Names = append(h.Open.Names, name)
		}
		if _, err := ReadHeader(bytes.NewReader(AppendHeader(nil, h))); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	})
}
