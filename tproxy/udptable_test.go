//go:build linux

package tproxy

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow"
)

// idleHandler leaves every flow open until the door ends.
type idleHandler struct{}

func (idleHandler) Handle(ctx context.Context, _ flow.Arrival) { <-ctx.Done() }

// TestEvictQuietest: the flow that was quiet for longest makes room, however long each of them has lived.
func TestEvictQuietest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Door{cfg: Config{Limits: Limits{UDPFlows: 3, UDPUnanswered: time.Hour}.withDefaults()}}
		d.ctx, d.cancel = context.WithCancel(context.Background())
		d.table = newUDPTable(d)
		key := func(port uint16) udpKey {
			return udpKey{netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), port), netip.MustParseAddrPort("192.0.2.1:9")}
		}
		l := &udpListener{door: d, handler: idleHandler{}}
		begin := func(port uint16) { d.table.deliver(l, key(port), []byte("x")) }
		begin(1)
		time.Sleep(50 * time.Second)
		d.table.flows[key(1)].touch()
		begin(2)
		time.Sleep(50 * time.Second)
		d.table.flows[key(2)].touch()
		time.Sleep(time.Second)
		begin(3)
		time.Sleep(time.Second)
		for i, quietest := range []uint16{1, 2, 3} {
			port := uint16(4 + i)
			if begin(port); d.table.flows[key(quietest)] != nil || d.table.flows[key(port)] == nil || d.table.len() != 3 {
				t.Errorf("flow %d began in a full table, and %d was not the one to go", port, quietest)
			}
			time.Sleep(time.Second)
		}
		d.cancel()
		d.table.close()
		d.flows.Wait()
	})
}
