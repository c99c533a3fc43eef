package netstack

import (
	"time"

	"github.com/weir-dev/weir/flow"
)

// Defaults of Limits beside those that all doors have (package flow). They are per Stack and so per sandbox.
const (
	DefaultICMPFlows   = 64
	DefaultBufferStart = 256 << 10
	DefaultBufferMax   = 1 << 20
	DefaultICMPIdle    = 30 * time.Second

	// minBuffer is the least a TCP buffer can be set to.
	minBuffer = 4 << 10
)

// Limits bounds what one sandbox may hold. A zero field takes its default.
type Limits struct {
	// HalfOpen is how many TCP handshakes may wait for a verdict or an upstream at once. A SYN beyond it is dropped, as
	// a full backlog would; the client's kernel tries again.
	HalfOpen int

	// TCPFlows is how many TCP flows may live at once, half-open ones included. A SYN beyond it is answered with a RST.
	TCPFlows int

	// UDPFlows and ICMPFlows bound the tables of datagram flows; the one that was quiet for longest makes room.
	UDPFlows, ICMPFlows int

	// HalfOpenUDP is how many UDP flows may wait for a verdict at once. A datagram of a new tuple beyond it is dropped.
	HalfOpenUDP int

	// UDPIdle ends a UDP flow that was quiet that long, UDPUnanswered one that never had an answer, UDPIdleDNS one to
	// port 53, ICMPIdle an echo flow.
	UDPIdle, UDPUnanswered, UDPIdleDNS, ICMPIdle time.Duration

	// BufferStart and BufferMax are the first and the largest size in bytes of a TCP flow's receive and send buffers.
	// They are bounds on queued payload, not allocations: an idle flow holds nothing.
	BufferStart, BufferMax int
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.HalfOpen, flow.DefaultHalfOpen)
	setDefault(&l.TCPFlows, flow.DefaultTCPFlows)
	setDefault(&l.UDPFlows, flow.DefaultUDPFlows)
	setDefault(&l.ICMPFlows, DefaultICMPFlows)
	setDefault(&l.BufferStart, DefaultBufferStart)
	setDefault(&l.BufferMax, DefaultBufferMax)
	setDefault(&l.UDPIdle, flow.DefaultUDPIdle)
	setDefault(&l.UDPUnanswered, flow.DefaultUDPUnanswered)
	setDefault(&l.HalfOpenUDP, flow.DefaultHalfOpenUDP)
	setDefault(&l.UDPIdleDNS, flow.DefaultUDPIdleDNS)
	setDefault(&l.ICMPIdle, DefaultICMPIdle)
	l.BufferStart = min(l.BufferStart, l.BufferMax)
	return l
}

// setDefault gives *v the value d when it is not positive.
func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
