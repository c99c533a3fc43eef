//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withhold executes a program on a kernel that seems to lack something: "landlock", "netfilter", or "seccomp" as a
// container's filter might forbid it.
func withhold(args []string) int {
	filter := map[string][]unix.SockFilter{
		"landlock":  refuse(unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS),
		"seccomp":   refuse(unix.SYS_SECCOMP, unix.EPERM),
		"netfilter": refuseSocket(unix.NETLINK_NETFILTER, unix.EPROTONOSUPPORT),
	}[args[0]]
	path, err := exec.LookPath(args[1])
	if err == nil {
		runtime.LockOSThread()
		err = install(filter)
	}
	if err == nil {
		err = syscall.Exec(path, args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// refuse is a filter that answers one system call with an error.
func refuse(call uint32, errno unix.Errno) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
}

// refuseSocket is one that knows no netlink sockets of a protocol, as a kernel without it.
func refuseSocket(protocol uint32, errno unix.Errno) []unix.SockFilter {
	const arguments, argument = 16, 8 // where they are in struct seccomp_data, and how far apart
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 5, K: unix.SYS_SOCKET},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arguments},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.AF_NETLINK},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arguments + 2*argument},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: protocol},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
}

// install puts a filter on the calling thread.
func install(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
