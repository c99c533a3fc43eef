//go:build unix

package event

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// descriptor is a pipe, socket, terminal or file that somebody gave us. Its file is in non-blocking mode, so that the
// runtime waits for a stalled reader and a deadline can end the wait.
type descriptor struct {
	f *os.File

	// rest is what is missing of a line that was written in part; it goes out before anything else.
	rest []byte
}

// openDescriptor duplicates fd. Pipes and terminals are opened anew where /proc allows it, because O_NONBLOCK belongs to
// the open file description and would change it for everyone who shares it.
func openDescriptor(fd int) (*descriptor, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, errors.Join(errors.New("not open for writing"), err)
	}
	kind := st.Mode & unix.S_IFMT
	name := fmt.Sprintf("fd:%d", fd)
	if kind == unix.S_IFIFO || kind == unix.S_IFCHR {
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err == nil {
			return &descriptor{f: os.NewFile(uintptr(own), name)}, nil
		}
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if kind != unix.S_IFREG {
		if err := unix.SetNonblock(own, true); err != nil {
			return nil, errors.Join(err, unix.Close(own))
		}
	}
	return &descriptor{f: os.NewFile(uintptr(own), name)}, nil
}

func (d *descriptor) expire(t time.Time) { _ = d.f.SetWriteDeadline(t) }

func (d *descriptor) close() error { return d.f.Close() }

// write writes each line with one write(2), as far as the reader takes it.
func (d *descriptor) write(b []byte, ends []int) (int, error) {
	if len(d.rest) > 0 {
		n, err := d.f.Write(d.rest)
		if d.rest = d.rest[n:]; err != nil {
			return 0, err
		}
	}
	start := 0
	for i, end := range ends {
		n, err := d.f.Write(b[start:end])
		switch {
		case err == nil:
			start = end
		case n > 0:
			d.rest = append([]byte(nil), b[start+n:end]...)
			return i + 1, err
		default:
			return i, err
		}
	}
	return len(ends), nil
}
