//go:build linux

package container

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// readFile reads a file of the host; one that is no ordinary file or has more than limit octets is an error. It never waits
// for a pipe's other end.
func readFile(path string, limit int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	defer unix.Close(fd)
	if err := ordinary(fd); err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	b, err := readAll(fd, limit+1)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %q: %w", path, err)
	case len(b) > limit:
		return nil, fmt.Errorf("read %q: more than %d octets: %w", path, limit, ErrTooMany)
	}
	return b, nil
}

func ordinary(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("it is no ordinary file")
	}
	return nil
}

// readAll reads to the end, or as far as limit.
func readAll(fd, limit int) ([]byte, error) {
	b := make([]byte, 0, min(limit, 4096))
	for len(b) < limit {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, min(limit, 2*cap(b))), b...)
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
	}
	return b, nil
}
