//go:build linux

package gauntlet

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// errnoOf makes a raw system call and returns its errno, nil if it succeeded.
func errnoOf(call, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// pointer is for arguments of raw system calls. What it points to has to stay alive until the call is over.
func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }
