//go:build linux

package lockdown

import (
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// speculationAllowed is SECCOMP_FILTER_FLAG_SPEC_ALLOW: kernels before 5.16 would slow a filtered process down with a
// mitigation for programs that run untrusted code beside their own secrets, as browsers do. We run none.
const speculationAllowed = 1 << 2

// load puts the filter on all threads, present and future.
func load(policy seccomp.Policy, err error) error {
	if err != nil {
		return err
	}
	filter := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync | speculationAllowed, Policy: policy}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("lock down: %w: %w", ErrNoSeccomp, err)
	}
	return nil
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
