//go:build linux && amd64

package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
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
	{"socket INET, flags", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, unix.IPPROTO_TCP}, 0},
	{"socket INET6", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET6, unix.SOCK_DGRAM}, 0},
	{"socket INET ping", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, 0},
	{"socket NETLINK route", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, 0},
	{"socket NETLINK generic", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC}, unix.EPROTONOSUPPORT},
	{"socket NETLINK netfilter", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, unix.EPROTONOSUPPORT},
	{"socket NETLINK generic, high bits", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC | high}, unix.EPROTONOSUPPORT},
	{"socket VSOCK", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
	{"socket VSOCK, high bits", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK | high, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
	{"socket ALG", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EAFNOSUPPORT},
	{"socket PACKET", unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"socket XDP", unix.SYS_SOCKET, [6]uintptr{unix.AF_XDP, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"socket BLUETOOTH", unix.SYS_SOCKET, [6]uintptr{unix.AF_BLUETOOTH, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
	{"socket TIPC", unix.SYS_SOCKET, [6]uintptr{unix.AF_TIPC, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
	{"socketpair UNIX", unix.SYS_SOCKETPAIR, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM, 0, 0}, unix.EFAULT}, // it gets as far as the missing array
	{"socketpair TIPC", unix.SYS_SOCKETPAIR, [6]uintptr{unix.AF_TIPC, unix.SOCK_STREAM, 0, 0}, unix.EAFNOSUPPORT},
	{"socketpair TIPC, high bits", unix.SYS_SOCKETPAIR, [6]uintptr{unix.AF_TIPC | high, unix.SOCK_STREAM, 0, 0}, unix.EAFNOSUPPORT},
	{"socket SCTP", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, unix.EPROTONOSUPPORT},
	{"socket MPTCP", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, unix.EPROTONOSUPPORT},
	{"socket UDP-Lite", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}, unix.EPROTONOSUPPORT},
	{"socket UDP-Lite, high bits", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE | high}, unix.EPROTONOSUPPORT},
	{"socket DCCP", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP}, unix.ESOCKTNOSUPPORT},
	{"socket INET raw", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, unix.EPERM},
	{"socket INET packet", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_PACKET, 0x300}, unix.ESOCKTNOSUPPORT},
	{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}, unix.EPERM},
	{"unshare user and files", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FILES}, unix.EPERM},
	{"unshare user, high bits", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER | high}, unix.EPERM},
	{"unshare mounts", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}, unix.EPERM},
	{"unshare network", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNET}, unix.EPERM},
	{"unshare pids", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWPID}, unix.EPERM},
	{"unshare ipc", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWIPC}, unix.EPERM},
	{"unshare host name", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUTS}, unix.EPERM},
	{"unshare cgroup", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWCGROUP}, unix.EPERM},
	{"unshare time", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWTIME}, unix.EPERM},
	{"clone user", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}, unix.EPERM},
	{"clone mounts", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWNS | uintptr(unix.SIGCHLD)}, unix.EPERM},
	{"ioctl TIOCSTI", unix.SYS_IOCTL, [6]uintptr{0, unix.TIOCSTI}, unix.EPERM},
	{"ioctl TIOCSTI, high bits", unix.SYS_IOCTL, [6]uintptr{0, unix.TIOCSTI | high}, unix.EPERM},
	{"ioctl TIOCLINUX", unix.SYS_IOCTL, [6]uintptr{0, tiocLinux}, unix.EPERM},
	{"ioctl TIOCSETD", unix.SYS_IOCTL, [6]uintptr{0, tiocSetD}, unix.EPERM},
	{"fcntl lease", unix.SYS_FCNTL, [6]uintptr{0, unix.F_SETLEASE, unix.F_RDLCK}, unix.EPERM},
	{"fcntl lease, high bits", unix.SYS_FCNTL, [6]uintptr{0, unix.F_SETLEASE | high, unix.F_RDLCK}, unix.EPERM},
	{"personality question", unix.SYS_PERSONALITY, [6]uintptr{queryPersonality}, 0},
	{"personality without randomization", unix.SYS_PERSONALITY, [6]uintptr{0x0040000}, unix.EPERM},
	{"personality without randomization, high bits", unix.SYS_PERSONALITY, [6]uintptr{0x0040000 | high}, unix.EPERM},
	{"personality with executable data", unix.SYS_PERSONALITY, [6]uintptr{0x0400000}, unix.EPERM},
	{"a call that is newer than this program", lastCall + 1, [6]uintptr{}, unix.ENOSYS},
	{"a call that there may be one day", 511, [6]uintptr{}, unix.ENOSYS},
	{"getpid as x32", unix.SYS_GETPID | x32Bit, [6]uintptr{}, unix.ENOSYS},
	{"socket as x32", unix.SYS_SOCKET | x32Bit, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.ENOSYS},
	// Refused by the lack of a capability, whatever the filter says.
	{"memory map of prctl", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_MM, unix.PR_SET_MM_BRK, 1 << 20}, unix.EPERM},
	{"a capability to keep", unix.SYS_PRCTL, [6]uintptr{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_RAW}, unix.EPERM},
	{"unlocked securebits", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_SECUREBITS, 0}, unix.EPERM},
	{"groups", unix.SYS_SETGROUPS, [6]uintptr{}, unix.EPERM},
}

// tryCalls is what the program inside does: every refused call by name, then the rows above.
func tryCalls() {
	info, err := arch.GetInfo("")
	if err != nil {
		fmt.Println(err)
		return
	}
	tried := 0
	try := func(c callRow) {
		tried++
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != c.want {
			fmt.Printf("%s: %v, want %v\n", c.name, errno, c.want)
		}
	}
	for errno, names := range map[unix.Errno][]string{unix.EPERM: refusedCalls, unix.ENOSYS: missingCalls} {
		for _, name := range names {
			nr, ok := info.SyscallNames[name]
			if !ok {
				fmt.Println("the filter has no", name)
			}
			try(callRow{name: name, nr: uintptr(nr), want: errno})
		}
	}
	for _, c := range callRows {
		try(c)
	}
	fmt.Println("tried", tried)
}

// allowedCalls are all others, and why CMD may use them.
var allowedCalls = []struct{ why, names string }{
	{"its own files, descriptors and directories, as far as mounts and modes let it", `read write open close stat fstat lstat poll lseek pread64
		pwrite64 readv writev access pipe select sendfile dup dup2 dup3 pipe2 fcntl flock fsync fdatasync truncate ftruncate getdents getdents64 getcwd
		chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask utime mknod statfs
		fstatfs sync readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
		fremovexattr fadvise64 utimes openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat
		faccessat pselect6 ppoll splice tee sync_file_range vmsplice utimensat fallocate preadv pwritev syncfs renameat2 copy_file_range preadv2 pwritev2
		statx close_range openat2 faccessat2 fchmodat2 setxattrat getxattrat listxattrat removexattrat memfd_create`},
	{"events about these", `epoll_create epoll_ctl epoll_wait epoll_pwait epoll_create1 epoll_pwait2 signalfd signalfd4 eventfd eventfd2 timerfd_create
		timerfd_settime timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch`},
	{"sockets, of the families that judgeSocket allows", `socket socketpair connect accept accept4 sendto recvfrom sendmsg recvmsg shutdown bind listen
		getsockname getpeername setsockopt getsockopt recvmmsg sendmmsg`},
	{"its own memory", `mmap mprotect munmap brk mremap msync mincore madvise mlock munlock mlockall munlockall mlock2 remap_file_pages pkey_mprotect
		pkey_alloc pkey_free cachestat map_shadow_stack mseal membarrier`},
	{"processes and threads of its own pid namespace", `clone fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pause getpid getppid
		gettid getpgrp setpgid getpgid setsid getsid set_tid_address set_robust_list get_robust_list futex futex_waitv futex_wake futex_wait
		futex_requeue rseq pidfd_open pidfd_send_signal process_madvise process_mrelease rt_sigqueueinfo rt_tgsigqueueinfo unshare`},
	{"its signals and timers", `rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack nanosleep getitimer
		alarm setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_nanosleep restart_syscall`},
	{"its ids and limits: there are no others in the user namespace, and limits only fall", `getuid getgid geteuid getegid setuid setgid setreuid setregid
		getgroups setgroups setresuid getresuid setresgid getresgid setfsuid setfsgid capget capset getrlimit setrlimit prlimit64 getrusage
		getpriority setpriority ioprio_set ioprio_get personality prctl arch_prctl set_thread_area get_thread_area`},
	{"the processors, without real time", `sched_yield sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max
		sched_get_priority_min sched_rr_get_interval sched_setaffinity sched_getaffinity sched_setattr sched_getattr getcpu`},
	{"questions", `uname sysinfo times time gettimeofday clock_gettime clock_getres getrandom statmount listmount lsm_get_self_attr lsm_list_modules
		name_to_handle_at`},
	{"ipc, of its own namespace", `shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend
		mq_timedreceive mq_notify mq_getsetattr`},
	{"asynchronous files, of a context that io_setup does not give", `io_destroy io_getevents io_submit io_cancel io_pgetevents`},
	{"more walls: of several filters the strictest answer counts", `seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self`},
	{"requests to devices and terminals, but for refusedRequests", `ioctl`},
	{"groups of what fanotify_init does not give", `fanotify_mark`},
	{"the kernel's own way back from a probe", `uretprobe`},
	{"no kernel has them", `getpmsg putpmsg afs_syscall tuxcall security epoll_ctl_old epoll_wait_old vserver`},
}

// TestEveryCallIsJudged: a call that is in no list is one that nobody has thought about.
func TestEveryCallIsJudged(t *testing.T) {
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	judged := map[string]int{}
	for _, n := range slices.Concat(refusedCalls, missingCalls) {
		judged[n]++
	}
	for _, a := range allowedCalls {
		for n := range strings.FieldsSeq(a.names) {
			judged[n]++
		}
	}
	for name, nr := range info.SyscallNames {
		if judged[name] == 0 && nr <= lastCall {
			t.Errorf("%s (%d) is neither refused nor allowed for a reason", name, nr)
		}
	}
	for name, n := range judged {
		if _, known := info.SyscallNames[name]; !known || n > 1 {
			t.Errorf("%s: known to the library %v, judged %d times", name, known, n)
		}
	}
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
