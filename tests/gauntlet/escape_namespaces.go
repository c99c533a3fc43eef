//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespaceRows are attempts to get into other namespaces than the program's own, or to more power in new ones.
func namespaceRows() []Row {
	return []Row{
		{
			ID: "escape/unshare", Vector: "become root of a new user namespace with unshare", Right: "no namespace can be made",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error {
				return run(&exec.Cmd{Path: "/bin/true", SysProcAttr: &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWUSER}})
			},
		},
		{
			ID: "escape/clone", Vector: "start a process in new user, network and mount namespaces with clone", Right: "no namespace can be made",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error {
				return run(&exec.Cmd{Path: "/bin/true", SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS}})
			},
		},
		{
			ID: "escape/clone3", Vector: "the same with clone3, whose flags a filter cannot see", Right: "the call is not there",
			Source: "security.md 2.5",
			Attack: func(*Attacker) error { return cloneThree(unix.CLONE_NEWUSER | unix.CLONE_NEWNET) },
		},
		{
			ID: "escape/setns", Vector: "enter the network namespace of a process of the host and talk to its loopback", Right: "there is no such process, and no setns",
			Source: "security.md 2.5", Privileged: true,
			Prepare: withVictim, Attack: (*Attacker).enterNetwork, Harm: Heard,
		},
		{
			ID: "escape/nested-network", Vector: "open raw sockets in a network namespace of a namespace of its own", Right: "no namespace can be made",
			Source: "security.md 2.5; edera.dev: 43 % of the kernel's holes behind it are in netfilter",
			Attack: func(a *Attacker) error {
				return a.inProcess("raw", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
					UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}}, func() error {
					fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
					if err == nil {
						unix.Close(fd)
						_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
					}
					return err
				})
			},
		},
		{
			ID: "escape/exec-as-root", Vector: "execute a program as uid 0 to get back the capabilities that were dropped", Right: "uid 0 means nothing",
			Lacks: needsRoot,
			Attack: func(a *Attacker) error {
				return a.inProcess("root", &syscall.SysProcAttr{}, func() error {
					hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
					var have [2]unix.CapUserData
					if err := unix.Capget(&hdr, &have[0]); err != nil {
						return err
					}
					if have[0].Effective == 0 {
						return errors.New("no capability")
					}
					return nil
				})
			},
		},
	}
}

// enterNetwork goes where another process is, and talks there. The socket belongs to the namespace of the thread.
func (a *Attacker) enterNetwork() error {
	var err error
	onThread(func() {
		err = a.anyOther(func(pid int) error {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			return a.tellTCP(fmt.Sprintf("127.0.0.1:%d", HostLoopbackPort))
		})
	})
	return err
}

// inProcess runs part of an attack in a process of its own: the attacker executes itself, and there the same attack gets here
// and calls f.
func (a *Attacker) inProcess(part string, attr *syscall.SysProcAttr, f func() error) error {
	if os.Getenv(partVariable) == part {
		return f()
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), partVariable+"="+part), SysProcAttr: attr}
	return run(cmd)
}

// partVariable tells a process of the attacker which part of the attack it is.
const partVariable = "GAUNTLET_PART"

// cloneThree makes a process that ends at once.
func cloneThree(flags uint64) error {
	args := [11]uint64{0: flags, 4: uint64(unix.SIGCHLD)} // struct clone_args of clone(2)
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	var status unix.WaitStatus
	_, err := unix.Wait4(int(pid), &status, 0, nil)
	return err
}
