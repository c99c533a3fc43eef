//go:build !linux

package websocket

import "net"

// limitUnsent leaves the kernel's queue as it is.
func limitUnsent(net.Conn) {}
