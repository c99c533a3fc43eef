package session

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// TestManyDrains: who says again and again that it ends, while a flow is open, costs no more than who says it once.
func TestManyDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, client, _ := simulated(t)
		var e *Edge
		q := raw(t, client, func() { e, _ = Accept(context.Background(), edge, who, EdgeConfig{}) })
		if err := e.begin(); err != nil {
			t.Fatal(err)
		}
		say := func() {
			q.Write(wire.AppendMessage(nil, &wire.Drain{Code: tunnel.Draining}))
			time.Sleep(messageInterval)
		}
		say()
		before := runtime.NumGoroutine()
		for range 100 {
			say()
		}
		if more := runtime.NumGoroutine() - before; more > 5 {
			t.Errorf("%d goroutines more after 100 times", more)
		}
		e.end()
		e.CloseWith(tunnel.OK, "")
		<-client.Context().Done()
	})
}
