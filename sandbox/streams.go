//go:build linux

package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkStream refuses a descriptor that would be a way around the walls for whoever has it: a directory, from which the
// host's tree can be walked, and a socket of the host's network that can be connected to something else. Of sockets that
// leaves the two ends of a UNIX stream, which is what many programs give their children for a pipe.
func checkStream(f *os.File) error {
	if f == nil {
		return nil
	}
	raw, err := f.SyscallConn() // and not Fd, which may change the file's mode
	if err != nil {
		return err
	}
	var found error
	if err := raw.Control(func(fd uintptr) { found = judgeStream(int(fd)) }); err != nil {
		return err
	}
	return found
}

func judgeStream(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return fmt.Errorf("is a directory: the program could walk through all of the host's files from there")
	case unix.S_IFSOCK:
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return err
		}
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil {
			return err
		}
		_, err = unix.Getpeername(fd)
		if domain != unix.AF_UNIX || kind == unix.SOCK_DGRAM || err != nil {
			return fmt.Errorf("is a socket of the host's network: the program could connect it to something else")
		}
	}
	return nil
}
