//go:build linux

package batch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafeIovecs are the elements that a message points at.
func unsafeIovecs(h unix.Msghdr) []unix.Iovec { return unsafe.Slice(h.Iov, int(h.Iovlen)) }
