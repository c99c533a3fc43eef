//go:build linux

package batch

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxMessages is how many messages one sendmmsg takes; a message may have many segments.
const maxMessages = 16

// outbox describes datagrams to the kernel. It is pooled, so that sending allocates nothing.
type outbox struct {
	socket *Socket
	left   [][]byte // those that the kernel was not asked about yet
	wait   bool
	sent   int64
	err    error

	count    int
	runs     [maxMessages]int // how many datagrams each message has
	messages [maxMessages]message
	controls [maxMessages]sizeControl
	iovs     []unix.Iovec

	// step is o.send, bound once.
	step func(fd uintptr) bool
}

var outboxes = sync.Pool{New: func() any {
	o := &outbox{iovs: make([]unix.Iovec, 0, maxMessages*maxSegments)}
	o.step = o.send
	return o
}}

// Send sends the datagrams in order. Those that are too large for the path and those that meet a full queue are lost, as on
// any network. It waits for room where wait is set; else it stops at the first datagram for which there is none.
//
// n is how many datagrams it is done with, sent how many of their bytes the kernel has taken. The error is the kernel's: an
// ICMP error that came back, such as ECONNREFUSED, or that the socket is closed; it concerns the datagrams from n on.
func (s *Socket) Send(datagrams [][]byte, wait bool) (n int, sent int64, err error) {
	o := outboxes.Get().(*outbox)
	o.socket, o.left, o.wait = s, datagrams, wait
	o.sent, o.err = 0, nil
	err = s.raw.Write(o.step)
	if err == nil {
		err = o.err
	}
	n, sent = len(datagrams)-len(o.left), o.sent
	o.socket, o.left, o.err = nil, nil, nil
	outboxes.Put(o)
	return n, sent, err
}

// send asks the kernel until nothing is left, there is an error, or no room. It reports false when it is to be called again
// once there is.
func (o *outbox) send(fd uintptr) bool {
	for len(o.left) > 0 {
		o.plan()
		n, errno := o.socket.sys.send(fd, o.messages[:o.count], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		clear(o.iovs)
		switch {
		case errno == 0:
			o.taken(n)
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return !o.wait
		case o.runs[0] > 1 && refusesSegments(errno):
			o.socket.refuse(len(o.left[0]), errno)
		case errno == unix.EMSGSIZE, errno == unix.ENOBUFS:
			o.socket.stats.Lost.Add(uint64(o.runs[0]))
			o.left = o.left[o.runs[0]:]
		default:
			o.err = os.NewSyscallError("sendmmsg", errno)
			return true
		}
	}
	return true
}

// plan fills in as many messages as there are datagrams and room for.
func (o *outbox) plan() {
	limits := Limits{Segment: int(o.socket.segment.Load()), Total: maxTotal, Count: maxSegments}
	o.count, o.iovs = 0, o.iovs[:0]
	for rest := o.left; len(rest) > 0 && o.count < maxMessages; o.count++ {
		n, _ := Run(rest, limits)
		first := len(o.iovs)
		o.iovs = Iovecs(o.iovs, rest[:n])
		hdr := unix.Msghdr{}
		if len(o.iovs) > first {
			hdr.Iov = &o.iovs[first]
			hdr.SetIovlen(len(o.iovs) - first)
		}
		if n > 1 {
			o.setSegment(&hdr, len(rest[0]))
		}
		o.messages[o.count].hdr, o.runs[o.count] = hdr, n
		rest = rest[n:]
	}
}

// setSegment gives the message that is planned a UDP_SEGMENT of size.
func (o *outbox) setSegment(hdr *unix.Msghdr, size int) {
	c := &o.controls[o.count]
	c.hdr.Level, c.hdr.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	c.hdr.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.value[:], uint16(size))
	hdr.Control = (*byte)(unsafe.Pointer(c))
	hdr.SetControllen(unix.CmsgSpace(2))
}

// taken says that the kernel took the first n messages.
func (o *outbox) taken(n int) {
	for i := range n {
		o.sent += int64(o.messages[i].n)
		o.left = o.left[o.runs[i]:]
	}
}

// refusesSegments says whether an error to a message with segments may be about them: they are larger than the path takes
// (EMSGSIZE, EINVAL before Linux 6.13), or the device cannot (EIO).
func refusesSegments(errno syscall.Errno) bool {
	switch errno {
	case unix.EINVAL, unix.EIO, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENOPROTOOPT:
		return true
	}
	return false
}

// narrowest is the size of a datagram that every path takes (RFC 791): smaller segments were not refused for their size.
const narrowest = 576 - 20 - 8

// refuse sends no segments of size any more, or none at all when it was not the size. An error that was about something
// else comes again without them.
func (s *Socket) refuse(size int, errno syscall.Errno) {
	s.stats.Refused.Add(1)
	if bySize := errno == unix.EINVAL || errno == unix.EMSGSIZE; !bySize || size <= narrowest {
		size = 1
	}
	s.segment.Store(int32(size - 1))
}
