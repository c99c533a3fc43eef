//go:build linux

package tproxy

import (
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// synQueue is the kernel's queue of held SYNs.
type synQueue struct {
	file    *os.File
	verdict func(id uint32, accept bool) // nil: this process may give verdicts itself
	lost    func()                       // the kernel dropped SYNs because we did not read them in time; nil: nobody is told
	strange func()                       // one was dropped that cannot be read; nil: nobody is told
}

// heldSYN is one of them.
type heldSYN struct {
	id       uint32 // the kernel's
	queue    uint16
	src, dst netip.AddrPort
	seq      uint32
}

// Of linux/netfilter/nfnetlink_queue.h and linux/netfilter.h.
const (
	nfqnlMsgPacket  = 0
	nfqnlMsgVerdict = 1
	nfqaPacketHdr   = 1
	nfqaVerdictHdr  = 2
	nfqaPayload     = 10

	verdictDrop   = 0
	verdictAccept = 1
)

// receive reads SYNs and calls take for each, until the queue is closed, which it returns. What cannot be read as a SYN
// is dropped.
func (q *synQueue) receive(take func(heldSYN)) error {
	raw, err := q.file.SyscallConn()
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	var n int
	var errno syscall.Errno
	read := func(fd uintptr) bool {
		n, errno = readRaw(fd, b)
		return errno != unix.EAGAIN
	}
	for {
		if err := raw.Read(read); err != nil {
			return err
		}
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.ENOBUFS:
			if q.lost != nil {
				q.lost()
			}
			continue // their senders try again
		case errno != 0:
			return os.NewSyscallError("read", errno)
		case n == 0:
			return io.EOF
		}
		for _, m := range heldPackets(b[:n]) {
			if syn, ok := parseSYN(m); ok {
				take(syn)
			} else {
				q.decide(heldSYN{id: m.id, queue: m.queue}, verdictDrop)
				if q.strange != nil {
					q.strange()
				}
			}
		}
	}
}

// decide gives the verdict on a held packet. One for a packet that is gone does no harm.
func (q *synQueue) decide(s heldSYN, verdict uint32) {
	if q.verdict != nil {
		q.verdict(s.id, verdict == verdictAccept)
		return
	}
	GiveVerdict(q.file, s.queue, s.id, verdict == verdictAccept)
}

// GiveVerdict lets the packet id of an NFQUEUE go on, or drops it. It needs CAP_NET_ADMIN over the network namespace of the
// socket that is bound to the queue.
func GiveVerdict(socket *os.File, queue uint16, id uint32, accept bool) {
	verdict := uint32(verdictDrop)
	if accept {
		verdict = verdictAccept
	}
	order := binary.NativeEndian
	m := make([]byte, 0, 32)
	m = order.AppendUint32(m, 32)
	m = order.AppendUint16(m, unix.NFNL_SUBSYS_QUEUE<<8|nfqnlMsgVerdict)
	m = order.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, port
	m = append(m, unix.AF_UNSPEC, 0)
	m = binary.BigEndian.AppendUint16(m, queue)
	m = order.AppendUint16(m, 12)
	m = order.AppendUint16(m, nfqaVerdictHdr)
	m = binary.BigEndian.AppendUint32(m, verdict)
	m = binary.BigEndian.AppendUint32(m, id)
	raw, err := socket.SyscallConn()
	if err != nil {
		return // closed, and with it every held packet is dropped
	}
	raw.Control(func(fd uintptr) { writeRaw(fd, m) })
}

// readRaw and writeRaw go past Go's scheduler: a verdict that accepts takes the SYN through two TCP stacks before the call
// returns, and to the scheduler looks blocked. Their descriptors are non-blocking.
func readRaw(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func writeRaw(fd uintptr, b []byte) {
	unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

// heldPacket is a packet message as it came.
type heldPacket struct {
	id      uint32
	queue   uint16
	payload []byte // from the IP header on
}

// heldPackets splits what one read returned.
func heldPackets(b []byte) (list []heldPacket) {
	const generic = 4
	for m := range netlinkMessages(b) {
		if m.kind != unix.NFNL_SUBSYS_QUEUE<<8|nfqnlMsgPacket || len(m.body) < generic {
			continue
		}
		p := heldPacket{queue: binary.BigEndian.Uint16(m.body[2:])}
		known := false
		for a := range netlinkAttributes(m.body[generic:]) {
			switch {
			case a.kind == nfqaPacketHdr && len(a.body) >= 4:
				p.id, known = binary.BigEndian.Uint32(a.body), true
			case a.kind == nfqaPayload:
				p.payload = a.body
			}
		}
		if known {
			list = append(list, p)
		}
	}
	return list
}

// parseSYN reads the ports and addresses of a TCP segment in IPv4 or IPv6 without extension headers, which is what the
// kernel makes of a connect.
func parseSYN(p heldPacket) (heldSYN, bool) {
	s := heldSYN{id: p.id, queue: p.queue}
	b := p.payload
	if len(b) < 1 {
		return s, false
	}
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		header := int(b[0]&0xf) * 4
		if header < ipv4Header || len(b) < header || b[9] != unix.IPPROTO_TCP {
			return s, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		b = b[header:]
	case 6:
		if len(b) < ipv6Header || b[6] != unix.IPPROTO_TCP {
			return s, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		b = b[ipv6Header:]
	default:
		return s, false
	}
	if len(b) < tcpHeader {
		return s, false
	}
	s.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	s.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	s.seq = binary.BigEndian.Uint32(b[4:])
	return s, true
}
