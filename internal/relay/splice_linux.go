package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spliceBuffer is the buffer that small amounts are copied through: below it a copy is cheaper than passing pages. It is taken
// from a pool and never held while waiting for the source.
const spliceBuffer = 16 << 10

var spliceBuffers = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// splice carries src to dst until the end of src's stream: small amounts by read and write, large ones by splice(2), whose
// pages no process touches. It is what io.Copy does between two TCP connections, except that an idle flow holds no pipe, small
// messages pass no pipe, and the system calls go past Go's scheduler: they cannot block, and it takes the processor away from
// those that last for more than 20 microseconds.
func splice(dst, src *net.TCPConn, n *atomic.Int64) error {
	in, err := src.SyscallConn()
	if err != nil {
		return err
	}
	out, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	s := splicer{out: out, taken: n}
	s.write, s.drain = s.writeOnce, s.drainOnce
	defer s.free()
	if err := in.Read(s.read); err != nil {
		return err
	}
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// splicer is one direction of a flow. read runs as long as the flow does, on the source's descriptor; what it has read is gone
// to out before it reads again.
type splicer struct {
	out   syscall.RawConn
	taken *atomic.Int64
	err   error // what ended the direction

	buf  *[spliceBuffer]byte
	rest []byte // of buf, that out has not taken

	pipe  *pipe // nil while little comes
	piped int   // bytes in it

	write, drain func(fd uintptr) bool
}

// read is what RawConn.Read calls: it reports false when there is nothing to read for now, true at the end.
func (s *splicer) read(fd uintptr) bool {
	for {
		var wait bool
		if s.pipe != nil {
			wait = s.passPages(int(fd))
		} else {
			wait = s.copyOnce(int(fd))
		}
		if wait || s.err != nil {
			s.free()
			return !wait
		}
	}
}

// copyOnce moves what fits into the buffer, and takes a pipe when it is filled: there is more.
func (s *splicer) copyOnce(fd int) (wait bool) {
	if s.buf == nil {
		s.buf = spliceBuffers.Get().(*[spliceBuffer]byte)
	}
	n, errno := rawCall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(s.buf)), spliceBuffer)
	if !s.got("read", n, errno) {
		return errno == unix.EAGAIN
	}
	s.rest = s.buf[:n]
	s.finish(s.out.Write(s.write))
	if n == spliceBuffer && s.err == nil {
		s.pipe = takePipe() // nil when there is no descriptor left: then by copying
	}
	return false
}

// passPages moves what is there through the pipe, and gives the pipe back when it was little.
func (s *splicer) passPages(fd int) (wait bool) {
	n, errno := spliceRaw(fd, s.pipe.w, pipeSize)
	if !s.got("splice", n, errno) {
		return errno == unix.EAGAIN
	}
	s.piped = n
	s.finish(s.out.Write(s.drain))
	if n < spliceBuffer && s.err == nil {
		s.pipe.giveBack()
		s.pipe = nil
	}
	return false
}

// got reports whether there are bytes, and keeps what came in their place.
func (s *splicer) got(call string, n int, errno unix.Errno) bool {
	switch {
	case errno == unix.EAGAIN, errno == unix.EINTR:
	case errno != 0:
		s.err = os.NewSyscallError(call, errno)
	case n == 0:
		s.err = io.EOF
	default:
		return true
	}
	return false
}

// finish keeps why the destination could not be waited for.
func (s *splicer) finish(err error) {
	if s.err == nil {
		s.err = err
	}
}

// writeOnce is what RawConn.Write calls for bytes in the buffer: it reports false when the socket is full.
func (s *splicer) writeOnce(fd uintptr) bool {
	for len(s.rest) > 0 {
		n, errno := rawCall(unix.SYS_WRITE, int(fd), uintptr(unsafe.Pointer(&s.rest[0])), len(s.rest))
		switch errno {
		case 0:
			s.rest = s.rest[n:]
			s.taken.Add(int64(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}

// drainOnce is the same for bytes in the pipe.
func (s *splicer) drainOnce(fd uintptr) bool {
	for s.piped > 0 {
		n, errno := spliceRaw(s.pipe.r, int(fd), s.piped)
		switch errno {
		case 0:
			s.piped -= n
			s.taken.Add(int64(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("splice", errno)
			return true
		}
	}
	return true
}

// free lets go of the buffer and the pipe. A pipe with bytes in it is nobody's any more.
func (s *splicer) free() {
	if s.buf != nil {
		spliceBuffers.Put(s.buf)
		s.buf, s.rest = nil, nil
	}
	switch {
	case s.pipe == nil:
		return
	case s.piped > 0:
		s.pipe.close()
	default:
		s.pipe.giveBack()
	}
	s.pipe = nil
}

func rawCall(call uintptr, fd int, p uintptr, n int) (int, unix.Errno) {
	r, _, errno := unix.RawSyscall(call, uintptr(fd), p, uintptr(n))
	return int(r), errno
}

// spliceRaw moves up to n bytes; neither end may block.
func spliceRaw(from, to, n int) (int, unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(r), errno
}
