package main

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weir-dev/weir/flow"
)

// opened counts what came through.
type opened struct{ handled, opened int }

func (o *opened) Handle(context.Context, flow.Arrival) { o.handled++ }

func (o *opened) Open(_ context.Context, _ flow.Arrival, ended func()) {
	o.opened++
	ended()
}

// Nobody but the container itself comes through, whichever way the door hands flows over.
func TestFromGuest(t *testing.T) {
	own := netip.MustParseAddr("192.0.2.7")
	for src, want := range map[netip.Addr]int{own: 1, netip.MustParseAddr("127.0.0.1"): 0} {
		var through opened
		f := fromGuest{&through, []netip.Addr{own}}
		rejected, ended := 0, 0
		a := flow.Arrival{Network: "tcp", Src: netip.AddrPortFrom(src, 1), Reject: func(flow.Reason) error { rejected++; return nil }}
		f.Handle(t.Context(), a)
		f.Open(t.Context(), a, func() { ended++ })
		if through.handled != want || through.opened != want || rejected != 2*(1-want) || ended != 1 {
			t.Errorf("from %s: %+v, rejected %d, ended %d", src, through, rejected, ended)
		}
	}
}
