package netstack

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// rxViews are the sizes of the buffers that one frame is read into, in order. They double, so that what a queued segment
// holds is never much more than what it carries: an acknowledgement takes the first one, a full segment of 64 KiB all.
// The first holds every header the filter looks at. A TAP gives at most 14 + 65535 bytes, which is less than all.
var rxViews = [...]int{maxHeaders, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 4 << 10}

// rxRing is the read side's state: one virtio-net header and the buffers for the next frame.
type rxRing struct {
	hdr   [vnetHdrLen]byte
	views [len(rxViews)]*buffer.View
	iovs  [1 + len(rxViews)]unix.Iovec
	n     int
	err   error
}

// readLoop reads frames until the descriptor is gone or interrupt is called. It returns the reason.
func (e *endpoint) readLoop() error {
	ring := &rxRing{}
	defer ring.release()
	read := func(fd uintptr) bool {
		for {
			ring.n, ring.err = ring.readv(int(fd), e.vnet)
			if ring.err != unix.EAGAIN || !e.burst.flush() {
				return ring.err != unix.EAGAIN
			}
		}
	}
	for {
		if err := e.raw.Read(read); err != nil {
			return e.readFailure(ring, err)
		}
		switch {
		case ring.err != nil && isTransientRead(ring.err):
			continue
		case ring.err != nil:
			return os.NewSyscallError("readv", ring.err)
		case ring.n == 0:
			return io.EOF
		}
		e.receive(ring)
		e.burst.tick()
	}
}

// readFailure is why waiting for the device failed with err. When the device is gone the runtime knows no more than that
// it cannot be waited for; the kernel says why.
func (e *endpoint) readFailure(ring *rxRing, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return err
	}
	if _, errno := ring.readv(e.fd, e.vnet); errno != nil && errno != unix.EAGAIN {
		return os.NewSyscallError("readv", errno)
	}
	return err
}

// interrupt makes readLoop return, now or as soon as it is called.
func (e *endpoint) interrupt() { e.file.SetReadDeadline(time.Unix(1, 0)) }

// isTransientRead says whether reading may go on after err: the device was set down, or the kernel was short of memory.
func isTransientRead(err error) bool {
	for _, errno := range []error{unix.EINTR, unix.ENETDOWN, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// readv reads one frame into fresh buffers where the last one used them up.
func (r *rxRing) readv(fd int, vnet bool) (int, error) {
	iovs := r.iovs[:0]
	if vnet {
		iovs = append(iovs, iovec(r.hdr[:]))
	}
	for i, size := range rxViews {
		if r.views[i] == nil {
			r.views[i] = buffer.NewViewSize(size)
		}
		iovs = append(iovs, iovec(r.views[i].AsSlice()))
	}
	return readvRaw(fd, iovs)
}

// take returns the n bytes of the frame just read; the ring forgets the buffers they are in.
func (r *rxRing) take(n int) buffer.Buffer {
	var b buffer.Buffer
	for i := range r.views {
		if n == 0 {
			break
		}
		v := r.views[i]
		r.views[i] = nil
		if v.Size() > n {
			v.CapLength(n)
		}
		n -= v.Size()
		b.Append(v)
	}
	return b
}

// copyOut copies octets of the frame just read to b, from offset at on.
func (r *rxRing) copyOut(b []byte, at int) {
	for _, v := range r.views {
		if len(b) == 0 {
			return
		}
		if at >= v.Size() {
			at -= v.Size()
			continue
		}
		b = b[copy(b, v.AsSlice()[at:]):]
		at = 0
	}
}

// release gives the buffers back.
func (r *rxRing) release() {
	for _, v := range r.views {
		if v != nil {
			v.Release()
		}
	}
}

// receive filters the frame in the ring and delivers it inline: a hand-over to another goroutine would cost more than
// the work.
func (e *endpoint) receive(ring *rxRing) {
	size := ring.n
	var vnet vnetHdr
	if e.vnet {
		size -= vnetHdrLen
		vnet = parseVnetHdr(ring.hdr[:])
		if size < 0 || !vnet.valid(size) {
			e.counters.add(dropVnetHdr, 1)
			return
		}
	}
	first := ring.views[0].AsSlice()[:min(size, maxHeaders)]
	switch verdict, why := e.filter.check(first, size); verdict {
	case discard:
		e.counters.add(why, 1)
	case neighbour:
		e.answerNeighbour(first)
	case deliver:
		if e.burst.take(ring, first, size, e.vnet, vnet) {
			return
		}
		if vnet.gsoType&^vnetGSOECN == vnetGSOUDPL4 {
			e.receiveUSO(ring.take(size), vnet)
			return
		}
		if why := e.parts.check(first); why != "" {
			e.counters.add(why, 1)
			return
		}
		e.acks.received(first, size, int(e.MTU()))
		e.deliver(ring.take(size))
	}
}

// deliver hands one frame to the stack.
func (e *endpoint) deliver(frame buffer.Buffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: frame})
	defer pkt.DecRef()
	eth, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if !ok {
		e.counters.add(dropRunt, 1)
		return
	}
	e.dispatcher.DeliverNetworkPacket(header.Ethernet(eth).Type(), pkt)
}
