package netstack

import (
	"context"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/weir-dev/weir/flow"
)

// TestBufferShares: few flows have large buffers, many have small ones, and all together a bounded amount.
func TestBufferShares(t *testing.T) {
	l := Limits{}.withDefaults()
	for flows, want := range map[int]int{0: 1 << 20, 1: 1 << 20, 128: 1 << 20, 129: 512 << 10, 1000: 128 << 10, 8192: 32 << 10} {
		if got := bufferMax(flows, l); got != want {
			t.Errorf("%d flows: %d octets, want %d", flows, got, want)
		}
	}
	sum := 0
	for i := range l.TCPFlows {
		sum += bufferMax(i+1, l)
	}
	if sum > 800<<20 {
		t.Errorf("all flows may hold %d MiB in each direction", sum>>20)
	}
}

// TestBuffersFollowTheFlows: the stack has the share of as many flows as there are, and has it back when they are gone.
func TestBuffersFollowTheFlows(t *testing.T) {
	const flows = 200
	p := newPeer(t, Config{}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		if c, err := a.Accept(); err == nil {
			c.Read(make([]byte, 1)) // until the client is gone
			c.Close()
		}
	}))
	size := func() int {
		var rcv tcpip.TCPReceiveBufferSizeRangeOption
		var snd tcpip.TCPSendBufferSizeRangeOption
		p.stack.TransportProtocolOption(tcp.ProtocolNumber, &rcv)
		p.stack.TransportProtocolOption(tcp.ProtocolNumber, &snd)
		if rcv.Max != snd.Max || rcv.Default > rcv.Max || rcv.Min > rcv.Default {
			t.Errorf("%+v, %+v", rcv, snd)
		}
		return rcv.Max
	}
	var conns []*gonet.TCPConn
	for range flows {
		conns = append(conns, p.mustDial(t, "192.0.2.1:80"))
	}
	if got := size(); got != bufferMax(flows, p.cfg.Limits) || got >= DefaultBufferMax {
		t.Errorf("%d flows have buffers of %d octets", flows, got)
	}
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "the buffers grow again", func() bool { return size() == DefaultBufferMax })
}
