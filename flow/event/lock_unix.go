//go:build unix

package event

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openNonblock keeps the opening of a pipe without a reader from blocking.
const openNonblock = unix.O_NONBLOCK

// tryLock takes the flock of a file, or says that somebody else has it.
func tryLock(f *os.File) (busy bool, err error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, err
		}
	}
}

func unlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }
