//go:build !linux

package client

import "net/netip"

// containerGateways returns nothing: containers of these systems run in virtual machines, and the client on the host.
func containerGateways() ([]netip.Addr, error) { return nil, nil }
