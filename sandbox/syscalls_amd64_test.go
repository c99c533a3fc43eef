//go:build linux && amd64

package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// callRow is one system call that a program inside tries, and the errno that it must get; 0 for one that must work.
type callRow struct {
	name string
	nr   uintptr
	args [6]uintptr
	want unix.Errno
}

// high are bits that the kernel does not read of a 32-bit argument: a filter that compares them can be evaded.
const high = 1 << 32

const x32Bit = 0x40000000

var callRows = []callRow{
	{"socket UNIX", unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}, 0},
	{"socket INET", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}, 0},
	{"socket INET6", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET6, unix.SOCK_DGRAM}, 0},
	{"socket NETLINK route", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, 0},
	{"socket NETLINK generic", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC}, unix.EPROTONOSUPPORT},
	{"socket NETLINK generic, high bits", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC | high}, unix.EPROTONOSUPPORT},
	{"socket VSOCK", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
	{"socket VSOCK, high bits", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK | high, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
	{"socket ALG", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EAFNOSUPPORT},
	{"socket PACKET", unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"socket XDP", unix.SYS_SOCKET, [6]uintptr{unix.AF_XDP, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"socket BLUETOOTH", unix.SYS_SOCKET, [6]uintptr{unix.AF_BLUETOOTH, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{8}, unix.ENOSYS},
	{"clone3", unix.SYS_CLONE3, [6]uintptr{}, unix.ENOSYS},
	{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}, unix.EPERM},
	{"unshare user and files", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FILES}, unix.EPERM},
	{"clone user", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}, unix.EPERM},
	{"setns", unix.SYS_SETNS, [6]uintptr{0, 0}, unix.EPERM},
	{"keyctl", unix.SYS_KEYCTL, [6]uintptr{}, unix.EPERM},
	{"bpf", unix.SYS_BPF, [6]uintptr{}, unix.EPERM},
	{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_TRACEME}, unix.EPERM},
	{"mount", unix.SYS_MOUNT, [6]uintptr{}, unix.EPERM},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{}, unix.EPERM},
	{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{}, unix.EPERM},
	{"ioctl TIOCSTI", unix.SYS_IOCTL, [6]uintptr{0, unix.TIOCSTI}, unix.EPERM},
	{"ioctl TIOCSTI, high bits", unix.SYS_IOCTL, [6]uintptr{0, unix.TIOCSTI | high}, unix.EPERM},
	{"ioctl TIOCLINUX", unix.SYS_IOCTL, [6]uintptr{0, tiocLinux}, unix.EPERM},
	{"getpid as x32", unix.SYS_GETPID | x32Bit, [6]uintptr{}, unix.ENOSYS},
	{"socket as x32", unix.SYS_SOCKET | x32Bit, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.ENOSYS},
}

// tryCalls is what the program inside does.
func tryCalls() {
	for _, c := range callRows {
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != c.want {
			fmt.Printf("%s: %v, want %v\n", c.name, errno, c.want)
		}
	}
	fmt.Println("tried", len(callRows))
}

// program386 is an ELF file for i386 that calls exit(42), and dies of an illegal instruction when that fails.
func program386() []byte {
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b} // mov eax,1; mov ebx,42; int 0x80; ud2
	const base, headers = 0x08048000, 52 + 32
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	b.WriteString("\x7fELF\x01\x01\x01" + strings.Repeat("\x00", 9))
	put([]uint16{2, 3}) // executable, i386
	put([]uint32{1, base + headers, 52, 0, 0})
	put([]uint16{52, 32, 1, 0, 0, 0})
	size := uint32(headers + len(code))
	put([]uint32{1, 0, base, base, size, size, 5, 0x1000}) // one segment: load, read and execute
	b.Write(code)
	return b.Bytes()
}

// A program of another architecture gets no call through: its numbers mean other things to the filter.
func TestForeignArchitecture(t *testing.T) {
	exe := filepath.Join(openDir(t), "program386")
	if err := os.WriteFile(exe, program386(), 0o755); err != nil {
		t.Fatal(err)
	}
	control := exec.Command(exe)
	if control.Run(); control.ProcessState == nil || control.ProcessState.ExitCode() != 42 {
		t.Skip("this host runs no 32-bit programs")
	}
	spec := probeSpec(t, "")
	spec.Command, spec.Shares = []string{exe}, []Share{{Host: exe, ReadOnly: true}}
	box, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if err := box.Release(); err != nil {
		t.Fatal(err)
	}
	if status, err := box.Wait(); err != nil || status.Signal != unix.SIGILL {
		t.Fatalf("ended with %+v, %v; want an illegal instruction after the refused call", status, err)
	}
}
