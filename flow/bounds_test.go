package flow_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
)

// blackHole is a route on which nobody ever answers.
type blackHole struct{}

func (blackHole) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Dials to where nobody answers have a bound and a time; the flow beyond is refused at once, and the places come back.
func TestDialLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443"))
		w.gate.MaxDials = 3
		w.gate.Routes = map[string]flow.Dialer{"direct": blackHole{}}
		var hanging []*program
		for range 3 {
			hanging = append(hanging, w.connect(t.Context(), goodAddr))
		}
		synctest.Wait()
		beyond := w.connect(t.Context(), goodAddr)
		if r := <-beyond.rejected; r != flow.Denied {
			t.Errorf("rejected with %v", r)
		}
		<-beyond.done
		if got := w.connects(); !slices.Equal(got, []string{"deny limit  none"}) {
			t.Errorf("%q", got)
		}
		time.Sleep(flow.DefaultDialTimeout)
		for _, p := range hanging {
			if r := <-p.rejected; r != flow.TimedOut {
				t.Errorf("rejected with %v", r)
			}
			<-p.done
		}
		if n := w.gate.Flows(); n != 0 {
			t.Errorf("%d flows left", n)
		}
	})
}

// Owners are looked for by a bounded number of flows; the others are recorded without one, and at once.
func TestLookupsOfOwnersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flows = 3000
		w := newWorld(t, enforce("192.0.2.1:443"))
		stuck := make(chan struct{})
		w.gate.Process = func(_ string, _, _ netip.AddrPort, found func(*event.Process)) {
			go func() {
				<-stuck
				found(nil)
			}()
		}
		for range flows {
			w.connect(t.Context(), evilAddr)
		}
		synctest.Wait()
		if n := len(w.connects()); n != flows-1024 {
			t.Errorf("%d flows were recorded while the lookups hang, want all but 1024", n)
		}
		close(stuck)
		synctest.Wait()
		if n := len(w.connects()); n != flows || w.gate.Flows() != 0 {
			t.Errorf("%d flows were recorded, %d are left", n, w.gate.Flows())
		}
	})
}

// A program that is refused closes its socket, and then nobody can tell whose it was: the owner is looked for first, but not
// for long.
func TestDenialWaitsForTheOwner(t *testing.T) {
	for name, test := range map[string]struct{ lookup, refused time.Duration }{
		"a quick lookup": {5 * time.Millisecond, 5 * time.Millisecond},
		"a slow one":     {100 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, enforce("192.0.2.1:443"))
				w.gate.Process = func(_ string, _, _ netip.AddrPort, found func(*event.Process)) {
					time.AfterFunc(test.lookup, func() { found(&event.Process{PID: 7}) })
				}
				start := time.Now()
				p := w.connect(t.Context(), evilAddr)
				if r := <-p.rejected; r != flow.Denied || time.Since(start) != test.refused {
					t.Errorf("rejected with %v after %v, want %v", r, time.Since(start), test.refused)
				}
				<-p.done
				time.Sleep(test.lookup)
				synctest.Wait()
				if c, ok := w.events[0].Details.(*event.Connect); len(w.events) != 1 || !ok || c.Process == nil || c.Process.PID != 7 {
					t.Errorf("%d events, the first %+v", len(w.events), w.events[0].Details)
				}
			})
		})
	}
}
