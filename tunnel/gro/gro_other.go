//go:build !linux

package gro

import "net"

// Wrap returns the socket itself: only Linux joins packets for it.
func Wrap(c *net.UDPConn) net.PacketConn { return c }
