//go:build linux

package lockdown

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// ErrNoSeccomp is wrapped by the error of [DataPath] where filters for system calls cannot be put on: the kernel has none,
// or a filter around this process forbids them.
var ErrNoSeccomp = errors.New("system call filters cannot be installed")

// DataPath locks the whole process down for the rest of its life and returns what holds: "seccomp" and, where the kernel
// has it, "landlock:N" with N the version of Landlock's ABI that is in force. The files and sockets that are open stay
// usable. On an error the process is locked in part and must not go on.
func DataPath() (held []string, err error) { return dataPath(0) }

// HostDataPath is DataPath for the data path of a container on the host: it keeps [HostCapabilities], and with them may mark
// its sockets and have them send from the addresses and ports that a container has sent to. Raw sockets are refused all the
// same.
func HostDataPath() (held []string, err error) {
	return dataPath(setOf(HostCapabilities()...), [2]uint32{unix.SOL_SOCKET, unix.SO_MARK})
}

// HostLauncher takes from the launcher of the containers' data paths what it does not need: it changes the network, goes into
// the containers' namespaces and looks at their processes and their engines' files, and starts data paths.
func HostLauncher() error {
	own := setOf(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_CHROOT, unix.CAP_DAC_READ_SEARCH, unix.CAP_SETPCAP)
	dataPath := setOf(HostCapabilities()...)
	return dropCapabilities(own|dataPath, dataPath)
}

// HostCapabilities are what the data path of a container on the host keeps.
func HostCapabilities() []uintptr { return []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE} }

func dataPath(keep uint32, options ...[2]uint32) (held []string, err error) {
	if err := openLater(); err != nil {
		return nil, err
	}
	info, err := archInfo()
	if err != nil {
		return nil, err
	}
	if err := hide(); err != nil {
		return nil, err
	}
	if err := limitMemory(); err != nil {
		return nil, err
	}
	abi, err := denyFiles()
	if err != nil {
		return nil, err
	}
	if err := dropCapabilities(keep, 0); err != nil {
		return nil, err
	}
	if err := load(dataPathPolicy(info, unix.Getpid(), options...)); err != nil {
		return nil, err
	}
	held = []string{"seccomp"}
	if abi > 0 {
		held = append(held, fmt.Sprintf("landlock:%d", abi))
	}
	return held, nil
}

// openLater opens what Go would open when it is first needed: the poller, and the host's time zone.
func openLater() error {
	_, _ = time.Now().Zone()
	r, w, err := os.Pipe() // a file that is polled
	if err != nil {
		return fmt.Errorf("lock down: open poller: %w", err)
	}
	r.Close()
	w.Close()
	return nil
}

// Launcher locks the launcher down once everything is started: other processes of the user cannot look into it, it gains
// no privileges, and the calls by which code in wrong hands would go on are refused. It must be called after the
// last process was started.
func Launcher() error {
	info, err := archInfo()
	if err != nil {
		return err
	}
	if err := hide(); err != nil {
		return err
	}
	return load(launcherPolicy(info))
}

// Edge locks down the process that has the keys of tunnels and the clients' connections, once its sockets are open: no program
// is executed, no privilege gained or kept, nothing written or read outside of dirs, and nobody looks into it. It returns what
// holds, as [DataPath] does.
func Edge(dirs ...string) (held []string, err error) {
	if err := openLater(); err != nil {
		return nil, err
	}
	info, err := archInfo()
	if err != nil {
		return nil, err
	}
	if err := hide(); err != nil {
		return nil, err
	}
	abi, err := confine(dirs...)
	if err != nil {
		return nil, err
	}
	if err := dropCapabilities(0, 0); err != nil {
		return nil, err
	}
	if err := load(launcherPolicy(info)); err != nil {
		return nil, err
	}
	held = []string{"seccomp"}
	if abi > 0 {
		held = append(held, fmt.Sprintf("landlock:%d", abi))
	}
	return held, nil
}

// hide keeps other processes of the same user from reading this one's memory, descriptors and environment, and its memory
// out of core files.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("lock down: dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("lock down: core limit: %w", err)
	}
	return nil
}

// onAllThreads makes a system call on every thread of the process; nothing runs meanwhile.
func onAllThreads(call, a, b, c uintptr) error {
	if _, _, errno := psx.Syscall3(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}
