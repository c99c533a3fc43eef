//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// keepStreams holds CMD's streams until Release hands them over: with profile "engine" nothing but CMD ever has them, so
// that a pipe ends when CMD closes it.
//
// A file of the host could be opened again by way of /proc/self/fd, for writing though it came for reading: root inside is
// its owner. Landlock, which keeps other programs from that, is not for this profile. So CMD gets pipes, and the caller
// copies. Two streams to one file have one pipe, in which their bytes keep the order.
func (s *Sandbox) keepStreams(spec Spec, null *os.File) error {
	var files [3]unix.Stat_t
	for i, f := range []*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if f == nil {
			f = null
		}
		own, err := duplicate(f)
		if err == nil {
			err = unix.Fstat(own, &files[i])
		}
		switch {
		case err != nil:
		case files[i].Mode&unix.S_IFMT != unix.S_IFREG:
			s.streams = append(s.streams, own)
			continue
		case i == 0:
			err = s.feed(os.NewFile(uintptr(own), f.Name()))
		case i == 2 && files[2].Dev == files[1].Dev && files[2].Ino == files[1].Ino:
			unix.Close(own)
			if own, err = unix.FcntlInt(uintptr(s.streams[1]), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				s.streams = append(s.streams, own)
			}
		default:
			err = s.drain(os.NewFile(uintptr(own), f.Name()))
		}
		if err != nil {
			return fmt.Errorf("keep %s: %w", f.Name(), err)
		}
	}
	return nil
}

func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn() // and not Fd, which may change the file's mode
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(n uintptr) { fd, dupErr = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(err, dupErr)
}

// feed copies the file to CMD, until its end or CMD's. It closes the file.
func (s *Sandbox) feed(file *os.File) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		file.Close()
		return err
	}
	s.streams = append(s.streams, p[0])
	go func() {
		w := os.NewFile(uintptr(p[1]), "stdin")
		io.Copy(w, file)
		w.Close()
		file.Close()
	}()
	return nil
}

// drain copies to the file what CMD writes; Wait waits for the end of it. It closes the file. When the file takes no
// more, CMD's pipe is broken.
func (s *Sandbox) drain(file *os.File) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		file.Close()
		return err
	}
	s.streams = append(s.streams, p[1])
	s.outputs.Go(func() {
		r := os.NewFile(uintptr(p[0]), "output")
		io.Copy(file, r)
		r.Close()
		file.Close()
	})
	return nil
}
