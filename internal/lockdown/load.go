//go:build linux

package lockdown

import (
	"fmt"
	"runtime"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// loadFlags: on all threads, present and future; and without the mitigation by which kernels before 5.16 would slow a
// filtered process down. It is for programs that run untrusted code beside their own secrets, as browsers do, and we run none.
const loadFlags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW

// offArch is where struct seccomp_data has the architecture of a call (seccomp(2)).
const offArch = 4

// load puts the filter on all threads. Calls of another architecture, whose numbers the lists were not made for, end the
// process; the library would apply the default to them.
func load(info *arch.Info, policy seccomp.Policy) error {
	program, err := policy.Assemble()
	if err != nil {
		return fmt.Errorf("lock down: assemble filter: %w", err)
	}
	raw, err := bpf.Assemble(append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
	}, program...))
	if err != nil {
		return fmt.Errorf("lock down: assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	runtime.LockOSThread() // the kernel wants no_new_privs of the thread that asks, and gives it to all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("lock down: no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, loadFlags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return fmt.Errorf("lock down: %w: %w", ErrNoSeccomp, errno)
	case thread != 0:
		return fmt.Errorf("lock down: %w on thread %d", ErrNoSeccomp, thread)
	}
	return nil
}

// archInfo returns the calls of the architecture that this binary is for. The others number and split calls in ways that
// the lists here are not made for.
func archInfo() (*arch.Info, error) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return nil, fmt.Errorf("lock down: %w: there is no list of calls for %s", ErrNoSeccomp, runtime.GOARCH)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("lock down: %w: %w", ErrNoSeccomp, err)
	}
	return info, nil
}

func errnoAction(errno unix.Errno) seccomp.Action {
	return seccomp.Action(unix.SECCOMP_RET_ERRNO | uint32(errno))
}

// known drops the calls that this architecture does not have.
func known(info *arch.Info, names ...string) (out []string) {
	for _, n := range names {
		if _, ok := info.SyscallNames[n]; ok {
			out = append(out, n)
		}
	}
	return out
}

// where is one call with conditions on its arguments, all of which must hold. The library compares all 64 bits of an
// argument, of which the kernel may read 32: in a list of what is allowed, odd high bits make a call refused.
func where(call string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: call, Conditions: conditions}
}

func equal(argument uint32, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: seccomp.Equal, Value: value}
}

func with(argument uint32, bit uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: seccomp.BitsSet, Value: bit}
}

func without(argument uint32, bits uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: seccomp.BitsNotSet, Value: bits}
}
