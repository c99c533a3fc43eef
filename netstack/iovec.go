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

// The system calls of the packet path go past Go's scheduler. To it a call that takes longer than 20 microseconds, as one
// with 64 KiB does, looks blocked: it gives the processor to another thread, which costs a wake-up now and a fight for it
// later. These never block, because every descriptor they see is non-blocking.

// readvRaw is readv(2) without the checks and allocations of unix.Readv.
func readvRaw(fd int, iovs []unix.Iovec) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// writevRaw is writev(2) likewise.
func writevRaw(fd int, iovs []unix.Iovec) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// readRaw is read(2) likewise.
func readRaw(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
