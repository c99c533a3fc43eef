//go:build !linux

package session

import "net"

// socket is a UDP socket of the client's.
type socket struct{ one }

func newSocket(conn net.Conn) *socket { return &socket{one{conn}} }
