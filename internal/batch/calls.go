//go:build linux

package batch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr: n is how many bytes were sent or received.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// sizeControl is the control message of UDP_SEGMENT and UDP_GRO with room for either value: a uint16 and an int.
type sizeControl struct {
	hdr   unix.Cmsghdr
	value [8]byte
}

// Neither call waits (MSG_DONTWAIT), so the runtime is not told of them: that would have it look every few microseconds
// whether they have come back, which costs more than they do.

func sendmmsg(fd uintptr, m []message, flags int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(flags), 0, 0)
	return int(n), errno
}

func recvmmsg(fd uintptr, m []message, flags int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(flags), 0, 0)
	return int(n), errno
}

// Iovecs appends what points at the datagrams to v; those that follow each other in memory are one element. The caller keeps
// the datagrams alive for as long as v is used.
func Iovecs(v []unix.Iovec, datagrams [][]byte) []unix.Iovec {
	var end uintptr // a number: a pointer behind the last octet would be one to something else
	for _, d := range datagrams {
		if len(d) == 0 {
			continue
		}
		start := uintptr(unsafe.Pointer(&d[0]))
		if start == end {
			last := &v[len(v)-1]
			last.SetLen(int(last.Len) + len(d))
		} else {
			e := unix.Iovec{Base: &d[0]}
			e.SetLen(len(d))
			v = append(v, e)
		}
		end = start + uintptr(len(d))
	}
	return v
}
