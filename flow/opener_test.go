package flow_test

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/testnet"
)

// The door has its goroutine back as soon as the bytes of a flow move, and hears of its end once, then; a flow that is refused
// has ended when the goroutine is back.
func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enforce("192.0.2.1:443"))
		w.servers[goodAddr] = echo
		const flows = 10
		var ends atomic.Int64
		var programs []*testnet.Conn
		before := runtime.NumGoroutine()
		for range flows {
			inside, gates := testnet.Pair()
			go inside.Write([]byte("hello"))
			w.gate.Open(t.Context(), flow.Arrival{
				Network: "tcp", Src: source, Dst: goodAddr,
				Accept: func() (net.Conn, error) { return gates, nil },
				Reject: func(flow.Reason) error { return nil },
			}, func() { ends.Add(1) })
			if _, err := io.ReadFull(inside, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			programs = append(programs, inside)
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; ends.Load() != 0 || w.gate.Flows() != flows || n > 3*flows { // the third is the server's
			t.Errorf("%d ends, %d flows, %d goroutines", ends.Load(), w.gate.Flows(), n)
		}
		for _, p := range programs {
			p.Close()
		}
		synctest.Wait()
		if ends.Load() != flows || w.gate.Flows() != 0 {
			t.Errorf("%d ends, %d flows are left", ends.Load(), w.gate.Flows())
		}
		w.gate.Open(t.Context(), flow.Arrival{
			Network: "tcp", Src: source, Dst: evilAddr,
			Accept: func() (net.Conn, error) { panic("accepted") },
			Reject: func(flow.Reason) error { return nil },
		}, func() { ends.Add(1) })
		if ends.Load() != flows+1 || w.gate.Flows() != 0 {
			t.Errorf("%d ends after a refused flow", ends.Load())
		}
	})
}
