//go:build linux

package sandbox

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// terminal is the caller's controlling terminal when CMD gets it as one of its three descriptors. CMD then stays in the
// caller's session and process group: the kernel delivers ^C and ^Z to both, and a shell inside may do job control.
type terminal struct {
	fd    int
	group int // the foreground process group before CMD
}

// findTerminal returns nil when none of the files is the controlling terminal (TIOCGPGRP refuses any other one).
func findTerminal(files ...*os.File) *terminal {
	for _, f := range files {
		if f == nil {
			continue
		}
		t := findTerminalOf(f)
		if t != nil {
			return t
		}
	}
	return nil
}

func findTerminalOf(f *os.File) *terminal {
	raw, err := f.SyscallConn() // and not Fd, which may change the file's mode
	if err != nil {
		return nil
	}
	var t *terminal
	raw.Control(func(fd uintptr) {
		group, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP)
		if err != nil {
			return
		}
		own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return
		}
		t = &terminal{fd: own, group: group}
	})
	return t
}

// restore makes the caller's group the foreground again if a shell inside left another there, and closes the terminal.
func (t *terminal) restore() {
	if t == nil {
		return
	}
	defer t.close()
	if t.group != unix.Getpgrp() {
		return // we were in the background: not ours to change
	}
	// A change from the background raises SIGTTOU unless it is blocked; masks belong to threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, t.group)
}

func (t *terminal) close() {
	if t != nil && t.fd >= 0 {
		unix.Close(t.fd)
		t.fd = -1
	}
}
