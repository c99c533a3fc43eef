package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// abort closes c with a RST where it can send one.
func abort(c net.Conn) {
	switch c := c.(type) {
	case interface{ Abort() }:
		c.Abort()
	case interface{ SetLinger(sec int) error }:
		c.SetLinger(0)
	}
	c.Close()
}

// causeOf names an error that ended a half.
func causeOf(err error) Cause {
	var ne net.Error
	switch {
	case IsLost(err):
		return TunnelLost
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Rst
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Exit
	case errors.As(err, &ne) && ne.Timeout():
		return Timeout
	}
	return Error
}

// IsLost reports whether err says that not the far end broke, but what led there: the tunnel that carried the connection.
// Such an error has a method Lost() bool.
func IsLost(err error) bool {
	var lost interface{ Lost() bool }
	return errors.As(err, &lost) && lost.Lost()
}

// isClosed says whether err is what an operation on a connection closed on this side returns.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
