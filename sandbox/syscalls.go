//go:build linux

package sandbox

import (
	"fmt"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What CMD may ask of the kernel. Two filters are put on the thread that executes it; the kernel takes the stricter answer:
//
//   - calls that a tool has no use for and kernels had holes in are refused by name (refusedCalls);
//   - arguments are looked at by a program of our own, since the kernel reads 32 bits of them and a comparison of all 64
//     could be evaded by setting the others (CVE-2019-10063 was that): socket families, and the ioctls that type on the
//     terminal. It also refuses every call of another architecture than ours; the library's filter would let those pass.
//
// x32 calls are refused by the library. What is refused with ENOSYS is what programs expect of an older kernel, and go round.

// refusedCalls are refused with EPERM.
var refusedCalls = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp",
	"keyctl", "add_key", "request_key",
	"bpf", "perf_event_open", "userfaultfd", "open_by_handle_at",
	"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"setns", "swapon", "swapoff", "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
	"acct", "quotactl", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "vhangup",
}

// missingCalls are refused with ENOSYS: io_uring does what a filter cannot see, and the flags of clone3 lie in memory.
var missingCalls = []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"}

// namespaceFlags are what clone and unshare must not ask for.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// filterSyscalls puts the filters on the calling thread, and so on what it executes. It comes last in confine.
func filterSyscalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return &SetupError{Step: StepConfine, Path: "seccomp", Err: err}
	}
	if err := filterArguments(uint32(info.ID)); err != nil {
		return &SetupError{Step: StepConfine, Path: "seccomp", Err: err}
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		{Action: errnoAction(unix.EPERM), Names: known(info, refusedCalls), NamesWithCondtions: namespaceCalls()},
		{Action: errnoAction(unix.ENOSYS), Names: known(info, missingCalls)},
	}}
	if err := seccomp.LoadFilter(seccomp.Filter{Policy: policy}); err != nil {
		return &SetupError{Step: StepConfine, Path: "seccomp", Err: err}
	}
	return nil
}

func errnoAction(errno unix.Errno) seccomp.Action {
	return seccomp.Action(unix.SECCOMP_RET_ERRNO | uint32(errno))
}

// known drops the calls that this architecture does not have.
func known(info *arch.Info, names []string) (out []string) {
	for _, n := range names {
		if _, ok := info.SyscallNames[n]; ok {
			out = append(out, n)
		}
	}
	return out
}

// namespaceCalls are clone and unshare with any of the flags, one condition for each: BitsSet wants all bits of a value.
func namespaceCalls() (calls []seccomp.NameWithConditions) {
	for bit := uint64(1); bit <= namespaceFlags; bit <<= 1 {
		if bit&namespaceFlags == 0 {
			continue
		}
		for _, name := range []string{"clone", "unshare"} {
			calls = append(calls, seccomp.NameWithConditions{Name: name,
				Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: bit}}})
		}
	}
	return calls
}

// Offsets into struct seccomp_data (seccomp(2)); the low half of an argument on a little-endian machine.
const (
	offCall = 0
	offArch = 4
	offArg0 = 16
	offArg1 = 24
	offArg2 = 32
)

// filterArguments is the filter of our own.
func filterArguments(ourArch uint32) error {
	errno := func(e unix.Errno) bpf.Instruction { return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)} }
	equal := func(v uint32, thenSkip, elseSkip uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: thenSkip, SkipFalse: elseSkip}
	}
	load := func(at uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: at, Size: 4} }
	raw, err := bpf.Assemble([]bpf.Instruction{
		load(offArch),
		equal(ourArch, 1, 0),
		errno(unix.ENOSYS),
		load(offCall),
		equal(unix.SYS_IOCTL, 0, 5),
		load(offArg1), // the terminal's input queue is its user's
		equal(unix.TIOCSTI, 1, 0),
		equal(tiocLinux, 0, 1),
		errno(unix.EPERM),
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
		equal(unix.SYS_SOCKET, 0, 9),
		load(offArg0),
		equal(unix.AF_UNIX, 7, 0),
		equal(unix.AF_INET, 6, 0),
		equal(unix.AF_INET6, 5, 0),
		equal(unix.AF_NETLINK, 1, 0),
		errno(unix.EAFNOSUPPORT),
		load(offArg2),
		equal(unix.NETLINK_ROUTE, 1, 0),
		errno(unix.EPROTONOSUPPORT),
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("load filter: %w", errno)
	}
	return nil
}

// tiocLinux is TIOCLINUX of ioctl_console(2), which can paste.
const tiocLinux = 0x541c
