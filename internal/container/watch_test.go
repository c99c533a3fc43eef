//go:build linux

package container

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestWatchTellsOfEachChange(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	newBridge(t, "br0")
	f := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lists, ended := make(chan []Container, 64), make(chan error, 1)
	go func() { ended <- f.Watch(ctx, "br0", func(l []Container) { lists <- l }) }()
	var last []Container
	until := func(what string, ok func([]Container) bool) {
		t.Helper()
		for {
			select {
			case l := <-lists:
				if last != nil && slices.EqualFunc(l, last, same) {
					t.Fatalf("%s: told twice of %v", what, l)
				}
				if last = l; ok(l) {
					return
				}
			case err := <-ended:
				t.Fatalf("%s: watch has ended: %v", what, err)
			}
		}
	}
	until("at first nobody", func(l []Container) bool { return len(l) == 0 })
	box := newBox(t, "")
	box.plug(t, "br0", "porta")
	until("a box", func(l []Container) bool { return len(l) == 1 && l[0].PID == box.pid })
	box.inside(t, func() {
		link, err := netlink.LinkByName("eth0")
		addr, err2 := netlink.ParseAddr("10.9.0.2/24")
		if err := errors.Join(err, err2, netlink.AddrAdd(link, addr)); err != nil {
			t.Error(err)
		}
	})
	until("its address", func(l []Container) bool { return len(l) == 1 && slices.Contains(l[0].Addresses, addrs("10.9.0.2")[0]) })
	box.stop()
	until("it has gone", func(l []Container) bool { return len(l) == 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("after its context: %v", err)
	}
}

func TestWatchEndsWithTheBridge(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	newBridge(t, "br0")
	f := open(t, t.TempDir())
	ended := make(chan error, 1)
	first := make(chan struct{}, 1)
	go func() { ended <- f.Watch(t.Context(), "br0", func([]Container) { first <- struct{}{} }) }()
	<-first
	link, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	netlink.LinkDel(link)
	if err := <-ended; !errors.Is(err, ErrNoBridge) {
		t.Errorf("watch: %v, want %v", err, ErrNoBridge)
	}
}
