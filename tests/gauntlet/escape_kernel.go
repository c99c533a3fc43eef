//go:build linux

package gauntlet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// kernelRows are settings and entries of the kernel that hold for the whole machine.
func kernelRows() []Row {
	openForWriting := func(paths ...string) func(*Attacker) error {
		return func(*Attacker) error {
			var errs []error
			for _, p := range paths {
				f, err := os.OpenFile(p, os.O_WRONLY, 0)
				if err == nil {
					f.Close() // nothing is written: the machine is not ours
					return nil
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}
	}
	cgroups := []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/memory/release_agent"}
	return []Row{
		{
			ID: "escape/sysctl", Vector: "change a kernel setting in /proc/sys", Right: "/proc/sys is read-only",
			Source: "security.md 2.5", Privileged: true,
			Attack: openForWriting("/proc/sys/net/ipv4/ip_forward"),
		},
		{
			ID: "escape/core-pattern", Vector: "have the kernel run a program as root: core_pattern, modprobe", Right: "/proc/sys is read-only, also for uid 0",
			Source: "security.md 2.5", Lacks: needsRoot,
			Attack: openForWriting("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"),
		},
		{
			ID: "escape/cgroup", Vector: "leave the limits of its cgroup, or set a release_agent", Right: "no cgroup is to be seen",
			Source: "security.md 2.5; CVE-2022-0492", Lacks: func() string {
				if why := needsRoot(); why != "" {
					return why
				}
				if openForWriting(cgroups...)(nil) != nil {
					return "a cgroup file system that is mounted writable"
				}
				return ""
			},
			Attack: openForWriting(cgroups...),
		},
		{
			ID: "escape/ia32", Vector: "ask for a forbidden socket by the 32-bit socketcall, in which a filter sees no family", Right: "calls of another architecture are refused",
			Source: "sandbox-runtime README (ia32)", Lacks: lacksIA32,
			Attack: func(*Attacker) error { return runProgram386() },
		},
		typing("tiocsti", "type into the user's terminal", "CVE-2017-5226 (bubblewrap)", unix.TIOCSTI),
		typing("tiocsti-high-bits", "the same with bits set that the kernel does not read, but a filter compares", "CVE-2019-10063 (flatpak)", unix.TIOCSTI|1<<32),
	}
}

// typing is an attack by an ioctl that puts what it is given into the terminal's input.
func typing(name, vector, source string, request uint64) Row {
	return Row{
		ID: "escape/" + name, Vector: vector, Right: "the ioctl is refused", Source: source,
		Lacks: func() string {
			if b, err := os.ReadFile("/proc/sys/dev/tty/legacy_tiocsti"); err == nil && bytes.HasPrefix(b, []byte("0")) {
				return "TIOCSTI, which the kernel's setting turns off"
			}
			return ""
		},
		Prepare: withTerminal,
		Attack: func(a *Attacker) error {
			for _, c := range []byte(a.Token + "\n") {
				if err := errnoOf(unix.SYS_IOCTL, 0, uintptr(request), pointer(&c)); err != nil {
					return err
				}
			}
			return nil
		},
		Harm: func(s *Stage) bool { return bytes.Contains(s.typed(), []byte(s.Token)) },
	}
}

// lacksIA32 tries.
func lacksIA32() string {
	if runtime.GOARCH != "amd64" {
		return "calls of a 32-bit x86"
	}
	if err := runProgram386(); err != nil {
		return "32-bit programs with AF_VSOCK: " + err.Error()
	}
	return ""
}

// runProgram386 runs, from memory, a program for i386 that asks for a socket of AF_VSOCK and ends with 0 if it gets one.
func runProgram386() error {
	fd, err := unix.MemfdCreate("program386", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, program386()); err != nil {
		return err
	}
	return runPath(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// program386 is socketcall(SYS_SOCKET, {AF_VSOCK, SOCK_STREAM, 0}), then exit(the result < 0).
func program386() []byte {
	code := []byte{
		0xb8, 102, 0, 0, 0, // mov eax, socketcall
		0xbb, 1, 0, 0, 0, // mov ebx, SYS_SOCKET
		0xb9, 0, 0, 0, 0, // mov ecx, the arguments: filled in below
		0xcd, 0x80, // int 0x80
		0xc1, 0xe8, 31, // shr eax, 31
		0x89, 0xc3, // mov ebx, eax
		0xb8, 1, 0, 0, 0, // mov eax, exit
		0xcd, 0x80, // int 0x80
		0x0f, 0x0b, // ud2
		unix.AF_VSOCK, 0, 0, 0, unix.SOCK_STREAM, 0, 0, 0, 0, 0, 0, 0,
	}
	const base, headers = 0x08048000, 52 + 32
	word := func(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }
	copy(code[11:], word(uint32(base+headers+len(code)-12)))
	elf := append([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9)...)
	size := uint32(headers + len(code))
	elf = append(elf, 2, 0, 3, 0) // executable, i386
	for _, v := range []uint32{1, base + headers, 52, 0, 0, 52 | 32<<16, 1 /* ELF header */, 0} {
		elf = append(elf, word(v)...)
	}
	elf = elf[:52]
	for _, v := range []uint32{1, 0, base, base, size, size, 5, 0x1000} { // one segment: load, read and execute
		elf = append(elf, word(v)...)
	}
	return slices.Concat(elf, code)
}
