package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spliceBuffer is the buffer that small amounts are copied through: below it a copy is cheaper than passing pages. It is taken
// from a pool and never held while waiting for the source.
const spliceBuffer = 16 << 10

var spliceBuffers = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// splicer is one direction of a flow between two kernel sockets: small amounts go by read and write, large ones by splice(2),
// whose pages no process touches. It is what io.Copy does between two TCP connections, except that an idle flow holds no pipe,
// small messages pass no pipe, and the system calls go past Go's scheduler: they cannot block, and it takes the processor away
// from those that last for more than 20 microseconds.
//
// The frames below run are few and small: a goroutine keeps the largest stack it ever had, and an idle flow has two.
type splicer struct {
	in, out *stream
	taken   *atomic.Int64
	err     error // what ended the direction

	buf  *[spliceBuffer]byte
	rest []byte // of buf, that out has not taken

	pipe  *pipe // nil while little comes
	piped int   // bytes in it
	last  int   // what the last read brought

	read, write func(fd uintptr) bool
}

// newSplicer returns what carries src to dst, nil when they are not both kernel sockets.
func newSplicer(dst, src net.Conn, n *atomic.Int64) *splicer {
	s := &splicer{in: streamOf(src), out: streamOf(dst), taken: n}
	if s.in == nil || s.out == nil {
		return nil
	}
	s.read, s.write = s.readOnce, s.writeOnce
	return s
}

// run carries until the end of the source's stream.
func (s *splicer) run() error {
	for s.err == nil {
		s.finish(s.in, s.in.raw.Read(s.read))
		if s.err == nil {
			s.finish(s.out, s.out.raw.Write(s.write))
		}
	}
	s.free()
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// readOnce is what RawConn.Read calls: it reports false when there is nothing to read for now, and lets go of everything then.
//
// That splice has nothing is no proof: it stops before urgent data (tcp(7)) for good, and says EAGAIN, or once there is an end
// of the stream behind it 0. read passes over the urgent octet, or takes it with SO_OOBINLINE, and has the last word.
func (s *splicer) readOnce(fd uintptr) bool {
	n, errno := s.take(int(fd))
	if s.pipe != nil && n == 0 && (errno == 0 || errno == unix.EAGAIN) {
		s.last = 0
		n, errno = s.take(int(fd))
	}
	s.last = n
	switch {
	case n > 0:
		return true
	case errno == 0:
		s.err = io.EOF
	case errno != unix.EAGAIN:
		s.err = os.NewSyscallError("read", errno)
	}
	s.free()
	return s.err != nil
}

// take reads what it can, into the pipe or the buffer.
func (s *splicer) take(fd int) (n int, errno unix.Errno) {
	s.adapt()
	if s.pipe != nil {
		n, errno = spliceRaw(fd, s.pipe.w, pipeSize)
		s.piped = n
		return n, errno
	}
	n, errno = rawCall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(s.buf)), spliceBuffer)
	s.rest = s.buf[:n]
	return n, errno
}

// adapt takes a pipe when the buffer was filled, because there is more, and gives it back when little came. Where there is no
// pipe to be had the buffer has to do.
func (s *splicer) adapt() {
	switch {
	case s.pipe == nil && s.last == spliceBuffer:
		s.pipe = takePipe()
	case s.pipe != nil && s.last < spliceBuffer:
		s.pipe.giveBack()
		s.pipe = nil
	}
	if s.pipe == nil && s.buf == nil {
		s.buf = spliceBuffers.Get().(*[spliceBuffer]byte)
	}
}

// finish keeps what a side met, or why it could not be waited for, in the words of its connection.
func (s *splicer) finish(side *stream, err error) {
	if s.err == nil {
		s.err = err
	}
	if s.err != nil {
		s.err = side.ended(s.err)
	}
}

// writeOnce is what RawConn.Write calls: it reports false when the socket is full.
func (s *splicer) writeOnce(fd uintptr) bool {
	for len(s.rest) > 0 || s.piped > 0 {
		n, errno := s.put(int(fd))
		switch errno {
		case 0:
			s.taken.Add(int64(n))
		case unix.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}

// put writes what it can.
func (s *splicer) put(fd int) (n int, errno unix.Errno) {
	if s.piped > 0 {
		if n, errno = spliceRaw(s.pipe.r, fd, s.piped); errno == 0 {
			s.piped -= n
		}
		return n, errno
	}
	if n, errno = rawCall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&s.rest[0])), len(s.rest)); errno == 0 {
		s.rest = s.rest[n:]
	}
	return n, errno
}

// free lets go of the buffer and the pipe. A pipe with bytes in it is nobody's any more.
func (s *splicer) free() {
	if s.buf != nil {
		spliceBuffers.Put(s.buf)
		s.buf, s.rest = nil, nil
	}
	s.last = 0
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

// rawCall is read(2) or write(2) past the scheduler: 0 and an error, or a number of bytes.
func rawCall(call uintptr, fd int, p uintptr, n int) (int, unix.Errno) {
	for {
		r, _, errno := unix.RawSyscall(call, uintptr(fd), p, uintptr(n))
		switch errno {
		case 0:
			return int(r), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// spliceRaw moves up to n bytes likewise.
func spliceRaw(from, to, n int) (int, unix.Errno) {
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(r), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
