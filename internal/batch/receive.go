//go:build linux

package batch

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slots is how many messages one recvmmsg takes. Each has room for the largest one; the memory behind that is touched, and
// so there, only as far as datagrams are long. slotStride is more than the room, so that the slots' first lines do not meet
// in the same sets of the processor's caches.
const (
	slots      = 32
	slotStride = 64<<10 + 2<<10
)

// receiveBuffer is what the kernel may hold for a socket, in octets of payload and of its own. It is a bound, no memory.
const receiveBuffer = 2 << 20

// maxWide is how many inboxes with all slots there are at once; whoever comes then gets one with a single slot. A few are in
// use while all goes well. But who takes the datagrams may wait for room in another socket, and as many flows as a door has
// may wait at the same time, each with its inbox.
const maxWide = 16

// inbox is where datagrams are received. Sockets hold one only while there is something to read.
type inbox struct {
	memory   []byte
	width    int // how many of the slots have memory
	messages [slots]message
	controls [slots]sizeControl
	iovs     [slots]unix.Iovec
	views    [][]byte // the datagrams received
}

// inboxes are those that nobody uses, and how many wide ones are in use.
var inboxes = struct {
	wide, narrow sync.Pool
	wideUsed     atomic.Int32
}{
	wide:   sync.Pool{New: func() any { return newInbox(slots) }},
	narrow: sync.Pool{New: func() any { return newInbox(1) }},
}

func newInbox(width int) *inbox {
	in := &inbox{memory: make([]byte, width*slotStride), width: width, views: make([][]byte, 0, width)}
	for i := range width {
		in.iovs[i].Base = &in.memory[i*slotStride]
		in.iovs[i].SetLen(64 << 10)
		h := &in.messages[i].hdr
		h.Iov = &in.iovs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&in.controls[i]))
	}
	return in
}

// takeInbox returns a wide one while there are few.
func takeInbox() *inbox {
	if inboxes.wideUsed.Add(1) <= maxWide {
		return inboxes.wide.Get().(*inbox)
	}
	inboxes.wideUsed.Add(-1)
	return inboxes.narrow.Get().(*inbox)
}

func (in *inbox) giveBack() {
	if in.width == slots {
		inboxes.wide.Put(in)
		inboxes.wideUsed.Add(-1)
	} else {
		inboxes.narrow.Put(in)
	}
}

// reader is one Receive under way.
type reader struct {
	socket *Socket
	in     *inbox
	n      int
	errno  syscall.Errno
}

// Receive hands what arrives to f, in order, until f or the socket fails; it returns that error. The datagrams are valid
// until f returns. It waits without a buffer. A deadline of the connection ends it with os.ErrDeadlineExceeded; it may be
// called again. From the first call on the connection must not be read by other means: what the kernel has joined would come
// as one datagram.
func (s *Socket) Receive(f func(datagrams [][]byte) error) error {
	// A kernel that cannot join datagrams (before 5.0) gives them one by one; one that allows less room gives what it allows.
	err := s.raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	})
	if err != nil {
		return err
	}
	r := &reader{socket: s}
	step := r.receive
	for {
		err := s.raw.Read(step)
		if err == nil && r.errno != 0 {
			err = os.NewSyscallError("recvmmsg", r.errno)
		}
		if err != nil {
			return err
		}
		err = f(r.in.split(r.n))
		r.release()
		if err != nil {
			return err
		}
	}
}

// receive asks the kernel once. It reports false, and holds nothing, when there is nothing yet.
func (r *reader) receive(fd uintptr) bool {
	r.in = takeInbox()
	for {
		messages := r.in.messages[:r.in.width]
		for i := range messages {
			messages[i].hdr.SetControllen(unix.CmsgSpace(4))
		}
		r.n, r.errno = r.socket.sys.receive(fd, messages, unix.MSG_DONTWAIT)
		// EMSGSIZE is an ICMP error about a datagram of ours that was too large: that one is lost, and the flow goes on.
		if r.errno != unix.EINTR && r.errno != unix.EMSGSIZE {
			break
		}
	}
	if r.errno != 0 {
		r.release()
	}
	return r.errno != unix.EAGAIN
}

// release gives the inbox back. A reader that waits does not even keep it alive.
func (r *reader) release() {
	r.in.giveBack()
	r.in = nil
}

// split returns the datagrams in the first n messages.
func (in *inbox) split(n int) [][]byte {
	in.views = in.views[:0]
	for i := range n {
		start := i * slotStride
		all := in.memory[start : start+int(in.messages[i].n)]
		size := in.segment(i)
		if size <= 0 {
			size = max(len(all), 1)
		}
		for {
			k := min(size, len(all))
			in.views = append(in.views, all[:k:k])
			if all = all[k:]; len(all) == 0 {
				break
			}
		}
	}
	return in.views
}

// segment is the size of the datagrams that message i is made of, 0 where it is one.
func (in *inbox) segment(i int) int {
	c := &in.controls[i]
	if int(in.messages[i].hdr.Controllen) < unix.CmsgLen(4) || c.hdr.Level != unix.IPPROTO_UDP || c.hdr.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(c.value[:]))
}
