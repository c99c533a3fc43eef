//go:build linux && !client

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/tproxy"
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

// askers is a net.PacketConn with one datagram from each address.
type askers struct {
	net.PacketConn
	from []string
}

func (a *askers) ReadFrom(p []byte) (int, net.Addr, error) {
	if len(a.from) == 0 {
		return 0, nil, net.ErrClosed
	}
	at := netip.MustParseAddrPort(a.from[0])
	a.from = a.from[1:]
	return 1, tproxy.Asker{From: at}, nil
}

// Questions of others on the host, who can reach the listeners, are not the container's.
func TestQuestionsFromGuest(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	pc := guestQuestions{&askers{from: []string{"127.0.0.1:5", "192.0.2.7:6"}}, own}
	if _, from, err := pc.ReadFrom(nil); err != nil || from.String() != "192.0.2.7:6" {
		t.Errorf("a question of %v, %v", from, err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.AfterFunc(100*time.Millisecond, func() { ln.Close() })
	if c, err := (guestListener{ln, own}).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection %v, %v", c, err)
	}
}
