//go:build linux

package lockdown

import (
	"fmt"
	"runtime"
	"slices"
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

// filter is what a process may call: by name in policy, by its arguments in permissions, which come first.
type filter struct {
	info        *arch.Info
	permissions []permission
	otherwise   seccomp.Action // for their calls when none of them holds
	policy      seccomp.Policy
}

// assemble puts the parts together. Calls of another architecture, whose numbers the lists were not made for, end the
// process; the library would apply the default to them.
func (f filter) assemble() ([]bpf.Instruction, error) {
	arguments, err := judgeArguments(f.info, f.permissions, f.otherwise)
	if err != nil {
		return nil, err
	}
	names, err := f.policy.Assemble()
	if err != nil {
		return nil, err
	}
	return slices.Concat([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(f.info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
	}, arguments, names), nil
}

// load puts the filter on all threads.
func load(f filter) error {
	program, err := f.assemble()
	if err != nil {
		return fmt.Errorf("lock down: assemble filter: %w", err)
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("lock down: assemble filter: %w", err)
	}
	list := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		list[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	runtime.LockOSThread() // the kernel wants no_new_privs of the thread that asks, and gives it to all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("lock down: no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(list)), Filter: &list[0]}
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
