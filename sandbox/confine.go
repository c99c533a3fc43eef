//go:build linux

package sandbox

import (
	"bufio"
	"io"
	"iter"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastCap is beyond every capability that any kernel knows.
const lastCap = 63

// The bits of capabilities(7) that x/sys does not name.
const (
	secbitNoRoot              = 1 << 0
	secbitNoRootLocked        = 1 << 1
	secbitNoSetuidFixup       = 1 << 2
	secbitNoSetuidFixupLocked = 1 << 3
	secbitNoAmbient           = 1 << 6
	secbitNoAmbientLocked     = 1 << 7

	// lockedBits: uid 0 means nothing, raising capabilities is impossible, and none of this can be undone. Keeping them
	// over a change of uid is not locked: there are none to keep, and ping(8) gives up when it may not ask for it.
	lockedBits = secbitNoRoot | secbitNoRootLocked | secbitNoSetuidFixup | secbitNoSetuidFixupLocked |
		secbitNoAmbient | secbitNoAmbientLocked
)

// confine takes from the calling thread, and so from what it executes, all that CMD must not have. The goroutine must be
// locked to its thread and must not give it back.
func confine(spec Spec) error {
	fail := func(what string, err error) error { return &SetupError{Step: StepConfine, Path: what, Err: err} }
	// Not dumpable: CMD runs under our uid, and must not look into us. An execve makes CMD itself dumpable again.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fail("dumpable", err)
	}
	if err := limitResources(); err != nil {
		return err
	}
	if err := joinOwnKeyring(); err != nil {
		return fail("session keyring", err)
	}
	for c := uintptr(0); c <= lastCap; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // the kernel knows no more
		} else if err != nil {
			return fail("bounding set", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fail("ambient set", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, lockedBits, 0, 0, 0); err != nil {
		return fail("securebits", err)
	}
	hdr, none := noCaps()
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fail("capabilities", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fail("no_new_privs", err)
	}
	if err := restrictByLandlock(spec); err != nil {
		return err
	}
	return filterSyscalls()
}

// dropOwnPrivileges makes all of init as weak as CMD will be but for the filter: from here on it only waits, forwards and connects. A binary with cgo
// cannot do this; it is left with what protects init anyway, being undumpable and PID 1.
func dropOwnPrivileges() error {
	hdr, none := noCaps()
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno == 0 {
		_, _, errno = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	}
	if errno != 0 && errno != syscall.ENOTSUP {
		return &SetupError{Step: StepConfine, Path: "init", Err: errno}
	}
	return nil
}

func noCaps() (unix.CapUserHeader, [2]unix.CapUserData) {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
}

// lines yields the lines of r without their ends.
func lines(r io.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for sc := bufio.NewScanner(r); sc.Scan(); {
			if !yield(sc.Text()) {
				return
			}
		}
	}
}

// dropOwnPrivilegesSupported says whether this binary is one without cgo.
func dropOwnPrivilegesSupported() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno == 0
}

// joinOwnKeyring gives CMD a session keyring of its own. A kernel without keyrings, or a filter around us, has none to protect.
func joinOwnKeyring() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err == unix.ENOSYS || err == unix.EPERM || err == unix.EACCES {
		return nil
	}
	return err
}

// confineEngine is confine for a CMD that is root over the inner namespaces: it keeps its capabilities, which are good for
// nothing else, may gain them from setuid programs of images, and may make namespaces. What is left is the filter, and
// what Landlock can do where file systems are mounted.
func confineEngine() error {
	fail := func(what string, err error) error { return &SetupError{Step: StepConfine, Path: what, Err: err} }
	if err := joinOwnKeyring(); err != nil {
		return fail("session keyring", err)
	}
	if err := scopeByLandlock(); err != nil {
		return err
	}
	return filterEngineSyscalls()
}
