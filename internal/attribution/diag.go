package attribution

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// tuple is a flow as its socket in the sandbox sees it.
type tuple struct {
	network       string
	local, remote netip.AddrPort
}

// Sizes and offsets of the structures of linux/inet_diag.h and linux/netlink.h.
const (
	netlinkHeader  = 16
	diagRequestLen = netlinkHeader + 8 + 48
	diagInode      = netlinkHeader + 4 + 48 + 16
	diagLocalPort  = netlinkHeader + 4
	diagMessageLen = netlinkHeader + 72

	sockDiagByFamily = 20
)

// errNoSocket says that the kernel knows no such socket, or has no diagnostics for this protocol, which it does not tell
// apart.
var errNoSocket = errors.New("no such socket")

// diagnose asks the kernel for the flow's socket and returns its inode.
func diagnose(fd int, seq uint32, t tuple) (uint32, error) {
	if t.network == "tcp" {
		return exchange(fd, seq, t, false)
	}
	// The lookup of a single UDP socket takes the two endpoints the other way round than that of TCP does; should a
	// kernel ever take them the right way, the second question finds what the first did not.
	inode, err := exchange(fd, seq, t, true)
	if errors.Is(err, errNoSocket) {
		return exchange(fd, seq, t, false)
	}
	return inode, err
}

// exchange sends one question and reads its answer, which the kernel has queued by the time send returns.
func exchange(fd int, seq uint32, t tuple, swapped bool) (uint32, error) {
	if err := unix.Sendto(fd, diagRequest(seq, t, swapped), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask socket diagnostics: %w", err)
	}
	var buf [4096]byte
	for {
		n, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read socket diagnostics: %w", err)
		}
		if n >= netlinkHeader && binary.NativeEndian.Uint32(buf[8:]) == seq {
			return diagAnswer(buf[:n], t)
		}
	}
}

// maxParts bounds the parts of a list that are read.
const maxParts = 64

// knows reports whether the kernel has diagnostics for the protocol. It asks for the list of listening sockets, which is the
// shortest; where there are no diagnostics, its end carries an error.
func knows(fd int, seq uint32, network string) bool {
	b := diagRequest(seq, tuple{network: network, local: anywhere, remote: anywhere}, false)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[20:], 1<<unix.BPF_TCP_LISTEN)
	if unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return false
	}
	known := false
	buf := make([]byte, 32<<10)
	for range maxParts {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return known
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return known
		}
		for _, m := range messages {
			switch {
			case m.Header.Seq != seq:
			case m.Header.Type == unix.NLMSG_DONE:
				return known || len(m.Data) >= 4 && binary.NativeEndian.Uint32(m.Data) == 0
			case m.Header.Type == sockDiagByFamily:
				known = true
			default:
				return known
			}
		}
	}
	return known
}

var anywhere = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)

// diagRequest builds a nlmsghdr and an inet_diag_req_v2.
func diagRequest(seq uint32, t tuple, swapped bool) []byte {
	src, dst := t.local, t.remote
	if swapped {
		src, dst = dst, src
	}
	b := make([]byte, diagRequestLen)
	binary.NativeEndian.PutUint32(b[0:], diagRequestLen)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[16], b[17] = unix.AF_INET6, unix.IPPROTO_UDP
	if t.local.Addr().Is4() {
		b[16] = unix.AF_INET
	}
	if t.network == "tcp" {
		b[17] = unix.IPPROTO_TCP
	}
	binary.NativeEndian.PutUint32(b[20:], ^uint32(0)) // every state
	binary.BigEndian.PutUint16(b[24:], src.Port())
	binary.BigEndian.PutUint16(b[26:], dst.Port())
	copy(b[28:44], src.Addr().AsSlice())
	copy(b[44:60], dst.Addr().AsSlice())
	binary.NativeEndian.PutUint64(b[64:], ^uint64(0)) // no cookie
	return b
}

// diagAnswer reads an inet_diag_msg, or the error that says that there is no such socket.
func diagAnswer(b []byte, t tuple) (uint32, error) {
	switch kind := binary.NativeEndian.Uint16(b[4:]); {
	case kind == unix.NLMSG_ERROR && len(b) >= netlinkHeader+4:
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[netlinkHeader:])))
		if errno == unix.ENOENT {
			return 0, errNoSocket
		}
		return 0, fmt.Errorf("socket diagnostics: %w", errno)
	case kind != sockDiagByFamily || len(b) < diagMessageLen:
		return 0, errors.New("socket diagnostics: short answer")
	}
	inode := binary.NativeEndian.Uint32(b[diagInode:])
	if binary.BigEndian.Uint16(b[diagLocalPort:]) != t.local.Port() || inode == 0 {
		return 0, errNoSocket // the other end of a flow within the sandbox, or a socket that nobody holds any more
	}
	return inode, nil
}
