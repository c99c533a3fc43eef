package netstack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// iovec points at b. b must not be empty.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// readvRaw is readv(2) without the checks and allocations of unix.Readv.
func readvRaw(fd int, iovs []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// writevRaw is writev(2) likewise.
func writevRaw(fd int, iovs []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
