//go:build linux

package tproxy

import (
	"maps"
	"sync"
)

// The names of the door's counters, beside those of package rules.
const (
	countTCP         = "tcp-accepted"
	rejectTCPFlows   = "reject-tcp-flows"   // a connection beyond Limits.TCPFlows, reset
	dropTCPHalfOpen  = "drop-tcp-half-open" // a SYN beyond Limits.HalfOpen
	dropTCPQueue     = "drop-tcp-queue"     // times that the kernel had more SYNs to tell than we read; their senders try again
	dropTCPStrange   = "drop-tcp-malformed" // a SYN that cannot be read
	dropTCPUnasked   = "reject-tcp-unasked" // a connection whose SYN was not held
	countUDP         = "udp-flows"          // flows begun
	dropUDPPending   = "drop-udp-half-open" // a datagram beyond Limits.HalfOpenUDP
	dropUDPQueue     = "drop-udp-queue"     // a datagram for a flow whose queue is full
	dropUDPRefused   = "drop-udp-refused"   // a datagram of a tuple that was refused a moment ago
	dropUDPSocket    = "drop-udp-socket"    // a flow for which no socket could be had
	dropUDPSend      = "drop-udp-send"      // a datagram that the program's kernel did not take
	countSegmentsOff = "udp-segmentation-refused"
	countEvicted     = "udp-evicted"          // flows that made room
	dropLogLost      = "drop-log-overflow"    // times that the kernel had more drops to tell than we read
	dropMalformed    = "drop-udp-no-original" // a datagram that does not say where it was sent to
)

// counters are named counts. The zero value is ready.
type counters struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (c *counters) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]uint64{}
	}
	c.n[name]++
}

func (c *counters) snapshot() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		return map[string]uint64{}
	}
	return maps.Clone(c.n)
}
