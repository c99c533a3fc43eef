package netstack

import (
	"math/bits"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A TCP flow may buffer up to Limits.BufferMax in each direction, but not every one of thousands: a program that reads
// nothing, or a server that does, would fill the process's memory. What a flow may grow to is its share of bufferShare, down
// to bufferLeast. Flows that are there keep what they have; all together stay below 800 MiB in each direction, because the
// n-th flow gets the n-th part.
const (
	bufferShare = 128 << 20
	bufferLeast = 32 << 10
)

// bufferMax is what one direction of a flow may grow to when there are so many: a power of two, so that it seldom changes.
func bufferMax(flows int, l Limits) int {
	share := bufferShare / max(flows, 1)
	share = 1 << (bits.Len(uint(share)) - 1)
	return min(max(share, bufferLeast), l.BufferMax)
}

// sizeBuffers fits the buffers to the number of flows. The caller holds d.mu.
func (d *tcpDoor) sizeBuffers() {
	l := d.s.cfg.Limits
	size := bufferMax(d.flows, l)
	if size == d.bufferMax {
		return
	}
	d.bufferMax = size
	start, least := min(l.BufferStart, size), min(minBuffer, size)
	for _, opt := range []tcpip.SettableTransportProtocolOption{
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: least, Default: start, Max: size},
		&tcpip.TCPSendBufferSizeRangeOption{Min: least, Default: start, Max: size},
	} {
		if err := d.s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			d.s.cfg.Log.Debugf("set %T: %s", opt, err)
		}
	}
}
