//go:build linux

package batch

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Await waits until there is something to read from a socket, an error included, and takes nothing: whoever reads datagrams
// one by one need not hold a buffer while there is none. Its own error is that of the deadline or of a closed socket.
func Await(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
