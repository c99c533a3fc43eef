//go:build linux

package sandbox

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filter of our own. The kernel reads 32 bits of the arguments that it looks at, so it compares 32 bits: a comparison
// of all 64 could be evaded by setting the others (CVE-2019-10063 was that).

// lastCall is the newest system call that somebody has judged (lsm, xattrat and open_tree_attr came last). The numbers
// from 424 on are the same on every architecture. Later ones are refused with ENOSYS, until somebody has.
const lastCall = unix.SYS_OPEN_TREE_ATTR

// namespaceFlags are what clone and unshare must not ask for. CLONE_NEWTIME is unshare's alone: in the flags of clone
// these bits hold a signal.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Requests that type on a terminal, for its user to run (TIOCSTI of ioctl_tty(2), TIOCLINUX of ioctl_console(2)), and the
// one that puts another line discipline behind it, which loads modules with a history.
var refusedRequests = []uint32{unix.TIOCSTI, tiocLinux, tiocSetD}

const (
	tiocLinux = 0x541c
	tiocSetD  = 0x5423
)

// refusedFileCommands: a lease on a file that is shown read-only lets the host's next writer wait for the program.
var refusedFileCommands = []uint32{unix.F_SETLEASE}

// streamProtocols and datagramProtocols are what the network of a sandbox carries. Others (SCTP, DCCP, UDP-Lite, MPTCP,
// SMC) would only be code of the kernel that CMD can reach.
var (
	streamProtocols   = []uint32{0, unix.IPPROTO_TCP}
	datagramProtocols = []uint32{0, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}
)

// socketTypeMask leaves the type without SOCK_NONBLOCK and SOCK_CLOEXEC.
const socketTypeMask = 0xf

// personalities are the ones that setarch(8) knows as harmless, and the question for the current one. The others weaken
// what the kernel does against exploits (no randomization, data that is executable).
var personalities = []uint32{0, perLinux32, queryPersonality}

const (
	perLinux32       = 8
	queryPersonality = 0xffffffff
)

// Offsets into struct seccomp_data (seccomp(2)); the low half of an argument on a little-endian machine.
const (
	offCall = 0
	offArch = 4
	offArg0 = 16
	offArg1 = 24
	offArg2 = 32
)

// callFilter judges the arguments of one call: instructions that all end in a return, to run with nothing loaded.
type callFilter struct {
	call  uint32
	judge []bpf.Instruction
}

// filterArguments puts the filter on the calling thread.
func filterArguments(ourArch uint32, filters []callFilter) error {
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ourArch, SkipTrue: 1},
		refuse(unix.ENOSYS),
		bpf.LoadAbsolute{Off: offCall, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: lastCall, SkipTrue: 1},
		refuse(unix.ENOSYS), // x32 calls too: they have bit 30 set
	}
	for _, f := range filters {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: f.call, SkipFalse: uint8(len(f.judge))})
		prog = append(prog, f.judge...)
	}
	raw, err := bpf.Assemble(append(prog, allow))
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return fmt.Errorf("load filter: %w", errno)
	}
	return nil
}

func callFilters() []callFilter {
	return []callFilter{
		{unix.SYS_SOCKET, judgeSocket()},
		{unix.SYS_SOCKETPAIR, oneOf(offArg0, []uint32{unix.AF_UNIX}, unix.EAFNOSUPPORT)},
		{unix.SYS_IOCTL, noneOf(offArg1, refusedRequests)},
		{unix.SYS_FCNTL, noneOf(offArg1, refusedFileCommands)},
		{unix.SYS_CLONE, noBitOf(offArg0, namespaceFlags)},
		{unix.SYS_UNSHARE, noBitOf(offArg0, namespaceFlags|unix.CLONE_NEWTIME)},
		{unix.SYS_PERSONALITY, oneOf(offArg0, personalities, unix.EPERM)},
	}
}

var allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

func refuse(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

// oneOf allows the values of the argument and refuses all others.
func oneOf(off uint32, values []uint32, otherwise unix.Errno) []bpf.Instruction {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: off, Size: 4}}
	for i, v := range values {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(values) - i)})
	}
	return append(prog, refuse(otherwise), allow)
}

// noneOf refuses the values of the argument and allows all others.
func noneOf(off uint32, values []uint32) []bpf.Instruction {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: off, Size: 4}}
	for i, v := range values {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(values) - i)})
	}
	return append(prog, allow, refuse(unix.EPERM))
}

// noBitOf refuses an argument that has any of the bits.
func noBitOf(off, bits uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: off, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipTrue: 1},
		allow,
		refuse(unix.EPERM),
	}
}

// judgeSocket allows UNIX, NETLINK route, and what of INET and INET6 is TCP, UDP or ping.
func judgeSocket() []bpf.Instruction {
	load := func(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }
	stream := oneOf(offArg2, streamProtocols, unix.EPROTONOSUPPORT)
	datagram := oneOf(offArg2, datagramProtocols, unix.EPROTONOSUPPORT)
	internet := slices.Concat(
		[]bpf.Instruction{
			load(offArg1),
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: socketTypeMask},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SOCK_STREAM, SkipFalse: uint8(len(stream))},
		}, stream,
		[]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SOCK_DGRAM, SkipFalse: uint8(len(datagram))}}, datagram,
		[]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SOCK_RAW, SkipFalse: 1},
			refuse(unix.EPERM), // what the kernel says without the capability: ping(8) then takes a datagram socket
			refuse(unix.ESOCKTNOSUPPORT),
		})
	netlink := oneOf(offArg2, []uint32{unix.NETLINK_ROUTE}, unix.EPROTONOSUPPORT)
	return slices.Concat(
		[]bpf.Instruction{
			load(offArg0),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipFalse: 1},
			allow,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_NETLINK, SkipFalse: uint8(len(netlink))},
		}, netlink,
		[]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 1},
			refuse(unix.EAFNOSUPPORT),
		}, internet)
}
