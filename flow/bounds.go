package flow

import "time"

// What a door lets one sandbox hold unless it is told otherwise. Both doors have the same bounds, so that a program finds the
// same limits behind each.
const (
	DefaultTCPFlows      = 8192
	DefaultHalfOpen      = 1024 // TCP handshakes that wait for a verdict or an upstream
	DefaultUDPFlows      = 1024
	DefaultHalfOpenUDP   = 256               // UDP flows that wait for a verdict
	DefaultUDPIdle       = 120 * time.Second // contract, section 3
	DefaultUDPUnanswered = 30 * time.Second
	DefaultUDPIdleDNS    = 10 * time.Second // to port 53
)
