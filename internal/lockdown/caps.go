//go:build linux

package lockdown

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastCap is beyond every capability that any kernel knows.
const lastCap = 63

// dropCapabilities empties all sets of all threads, but for those in keep, a set of the first 32 capabilities, that they
// have; what they execute inherits those in inherit. An ordinary user's are empty already.
func dropCapabilities(keep, inherit uint32) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("lock down: read capabilities: %w", err)
	}
	if sets[0].Permitted|sets[1].Permitted|sets[0].Inheritable|sets[1].Inheritable == 0 {
		return nil
	}
	// Ambient capabilities go with those that are permitted, or inheritable.
	keep &= sets[0].Permitted
	sets = [2]unix.CapUserData{{Effective: keep, Permitted: keep, Inheritable: keep & inherit & sets[0].Inheritable}}
	err := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&sets)
	if err != nil {
		return fmt.Errorf("lock down: capabilities: %w", err)
	}
	return nil
}

// setOf is the set of some of the first 32 capabilities.
func setOf(list ...uintptr) (set uint32) {
	for _, c := range list {
		set |= 1 << c
	}
	return set
}

// BequeathOnly empties the bounding set of the calling thread, but for keep: what it executes has no others, be it root. The
// goroutine must be locked to its thread and must not give it back. Where the thread may not do this, as an ordinary user's
// may not, nothing is done: no_new_privs and [DataPath] see to the rest.
func BequeathOnly(keep ...uintptr) error {
	for c := uintptr(0); c <= lastCap; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err {
		case nil:
		case unix.EPERM, unix.EINVAL: // no right to; the kernel knows no more
			return nil
		default:
			return fmt.Errorf("empty bounding set: %w", err)
		}
	}
	return nil
}
