//go:build !linux

package client

import "net/netip"

// leadsHere reports whether packets to addr end at this machine, as far as the choice of their source shows it.
func leadsHere(addr netip.Addr) bool { return sourceLeadsHere(addr) }
