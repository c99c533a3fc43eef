package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// closeWrite ends the stream towards c. A connection that has no half-close is closed whole: its peer must see the end.
func closeWrite(c net.Conn) error {
	hc, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return c.Close()
	}
	err := hc.CloseWrite()
	if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, net.ErrClosed) {
		return nil // the peer is gone already; the other half finds out by itself
	}
	return err
}

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
