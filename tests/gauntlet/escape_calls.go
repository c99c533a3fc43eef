//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// callRows are calls with which a program gets at more of the kernel, or at other processes, than it needs.
func callRows() []Row {
	return []Row{
		{
			ID: "escape/io-uring", Vector: "set up an io_uring, whose operations no system call filter sees", Right: "the call is not there",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error {
				var params [120]byte
				return errnoOf(unix.SYS_IO_URING_SETUP, 4, pointer(&params[0]), 0)
			},
		},
		{
			ID: "escape/userfaultfd", Vector: "handle page faults of its own, which makes races in the kernel winnable", Right: "the call is refused",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error { return errnoOf(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0) }, // 1: UFFD_USER_MODE_ONLY
		},
		{
			ID: "escape/perf", Vector: "count what a process of the host does, with perf_event_open", Right: "the call is refused",
			Prepare: withVictim, Attack: (*Attacker).profile,
		},
		{
			ID: "escape/ptrace", Vector: "attach to a process of the host and read its memory", Right: "there is no such process, and no ptrace",
			Source:  "security.md 2.5",
			Prepare: withVictim, Attack: (*Attacker).trace,
		},
		{
			ID: "escape/process-vm-readv", Vector: "read the memory of a process of the host without attaching", Right: "there is no such process, and no such call",
			Source:  "security.md 2.5",
			Prepare: withVictim,
			Attack: func(a *Attacker) error {
				return a.readStacks(func(pid int, at uint64, b []byte) (int, error) {
					local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
					return unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
				})
			},
		},
		{
			ID: "escape/pidfd-getfd", Vector: "take a connected socket out of a process of the host", Right: "there is no such process, and no such call",
			Source:  "security.md 2.5",
			Prepare: withVictim, Attack: (*Attacker).stealSocket, Harm: Heard,
		},
		{
			ID: "escape/keyring", Vector: "read a key of the user's keyring by its number", Right: "keys are out of reach",
			Source:  "security.md 2.5",
			Prepare: prepareKey,
			Attack: func(a *Attacker) error {
				id, _ := strconv.Atoi(a.Args["key"])
				b := make([]byte, 64)
				n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, 0)
				if err != nil {
					return err
				}
				return a.contains(b[:n])
			},
		},
		{
			ID: "escape/keys-listed", Vector: "list the user's keys in /proc/keys", Right: "the list is empty",
			Prepare: prepareKey,
			Attack:  func(a *Attacker) error { return a.read("/proc/keys") },
		},
	}
}

// prepareKey makes a key that any process of the user may read: its serial number counts for the whole machine, and so do
// its permissions. It lives in the session keyring of a thread, which lives as long as the stage.
func prepareKey(s *Stage) error {
	made, over := make(chan error), make(chan struct{})
	go onThread(func() {
		const sessionKeyring, all = -3, 0x3f3f0000
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		var id int
		if err == nil {
			id, err = unix.AddKey("user", s.Token, []byte(s.Token), sessionKeyring)
		}
		if err == nil {
			err = unix.KeyctlSetperm(id, all)
		}
		s.Args["key"] = strconv.Itoa(id)
		made <- err
		<-over
	})
	s.Defer(func() { close(over) })
	if err := <-made; err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return nil
}

// profile opens a counter of somebody else's time on the processor.
func (a *Attacker) profile() error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK,
		Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	return a.anyOther(func(pid int) error {
		_, err := unix.PerfEventOpen(&attr, pid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		return err
	})
}

// trace reads another process by PTRACE_PEEKDATA.
func (a *Attacker) trace() error {
	var errs []error
	onThread(func() {
		errs = append(errs, a.anyOther(func(pid int) error {
			if err := unix.PtraceAttach(pid); err != nil {
				return err
			}
			defer unix.PtraceDetach(pid)
			if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
				return err
			}
			return a.readStack(pid, func(pid int, at uint64, b []byte) (int, error) {
				return unix.PtracePeekData(pid, uintptr(at), b)
			})
		}))
	})
	return errors.Join(errs...)
}

// stealSocket talks by a socket that a process of the host has as its descriptor 3.
func (a *Attacker) stealSocket() error {
	return a.anyOther(func(pid int) error {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, 3, 0)
		if err != nil {
			return err
		}
		return a.write(os.NewFile(uintptr(fd), "stolen"))
	})
}

// run runs a program that only has to start.
func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
