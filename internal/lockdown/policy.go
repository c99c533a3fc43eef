//go:build linux

package lockdown

import (
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// The calls of the data path, those of every packet first: a kernel before 5.11 goes through the list for each call.
var dataPathCalls = []string{
	// Packets, flows and the runtime's poller.
	"futex", "epoll_pwait", "read", "write", "readv", "writev", "recvfrom", "sendto", "recvmsg", "sendmsg", "recvmmsg", "sendmmsg",
	"nanosleep", "epoll_ctl", "close", "connect", "accept4", "shutdown", "getsockname", "getpeername", "bind",
	"poll", "ppoll", "splice", "pipe2",

	// The Go runtime: memory, threads, signals, clocks, randomness, and the limits of its cgroup.
	"madvise", "munmap", "sched_yield", "sched_getaffinity", "getpid", "gettid", "exit", "exit_group", "restart_syscall",
	"rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "sigaltstack", "clock_gettime", "clock_nanosleep", "getrandom",
	"pread64",

	// The event log and the host's resolver files, which others have opened. Looking at a path opens nothing.
	"fstat", "newfstatat", "fstatat", "flock", "ftruncate",
}

// killCalls end the process: no code of ours makes them.
var killCalls = []string{
	"execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
	"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount",
	"fspick", "mount_setattr", "setns", "unshare", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
	"io_uring_register", "open_by_handle_at", "name_to_handle_at", "keyctl", "add_key", "request_key", "init_module", "finit_module",
	"delete_module", "kexec_load", "kexec_file_load", "swapon", "swapoff", "reboot", "acct", "quotactl", "syslog", "settimeofday",
	"clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "modify_ldt", "personality", "setuid", "setgid", "setreuid",
	"setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "memfd_create", "memfd_secret", "pkey_mprotect", "shmat",
}

// missingCalls get the answer of an older kernel: the flags of clone3 lie in memory, and the C library does without it; Go
// tries sendfile where it has no pipe left to splice through, and then copies.
var missingCalls = []string{"clone3", "sendfile"}

// newNamespaces are the flags of clone that the kernel would take together with CLONE_THREAD from somebody with capabilities.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// prSetVMA is PR_SET_VMA of prctl(2): the runtime names its mappings.
const prSetVMA = 0x53564d41

// dataPathPolicy is the filter of the data path with process id pid, which may set these socket options beside its own.
func dataPathPolicy(info *arch.Info, pid int, options ...[2]uint32) filter {
	return filter{info: info, permissions: argumentCalls(uint32(pid), options), otherwise: errnoAction(unix.EPERM),
		policy: seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: known(info, slices.Concat(dataPathCalls, languageCalls())...)},
			{Action: seccomp.ActionKillProcess, Names: known(info, killCalls...)},
			{Action: errnoAction(unix.ENOSYS), Names: known(info, missingCalls...)},
		}}}
}

// launcherPolicy only refuses: the launcher opens and renames files of the user's choice at its end.
func launcherPolicy(info *arch.Info) filter {
	return filter{info: info, permissions: []permission{where("clone", with(0, unix.CLONE_THREAD))}, otherwise: seccomp.ActionKillProcess,
		policy: seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionKillProcess, Names: known(info, killCalls...)},
			{Action: errnoAction(unix.ENOSYS), Names: known(info, missingCalls...)},
		}}}
}

// argumentCalls are the calls that depend on what they ask for.
func argumentCalls(pid uint32, options [][2]uint32) []permission {
	calls := []permission{
		where("mmap", without(2, unix.PROT_EXEC)),
		where("mprotect", without(2, unix.PROT_EXEC)),
		where("clone", with(0, unix.CLONE_THREAD), without(0, newNamespaces)), // a thread, no process
		where("tgkill", equal(0, pid)),
		where("kill", equal(0, pid)),
		where("prctl", equal(0, prSetVMA)),
		where("ioctl", equal(1, unix.TIOCINQ)),
		where("ioctl", equal(1, unix.TCGETS)), // is it a terminal?
	}
	for _, command := range []uint32{unix.F_DUPFD_CLOEXEC, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD, unix.F_SETPIPE_SZ} {
		calls = append(calls, where("fcntl", equal(1, command)))
	}
	return append(append(calls, socketCalls()...), optionCalls(options)...)
}

// socketCalls are the sockets that may be made: to other hosts, and the one that lists this host's addresses.
func socketCalls() (calls []permission) {
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	kinds := []struct{ family, kind, protocol uint32 }{
		{unix.AF_INET, unix.SOCK_DGRAM | flags, unix.IPPROTO_ICMP},
		{unix.AF_INET6, unix.SOCK_DGRAM | flags, unix.IPPROTO_ICMPV6},
		{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE},
	}
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint32{unix.SOCK_STREAM | flags, unix.SOCK_DGRAM | flags} {
			kinds = append(kinds, struct{ family, kind, protocol uint32 }{family, kind, 0})
		}
		kinds = append(kinds, struct{ family, kind, protocol uint32 }{family, unix.SOCK_STREAM | flags, unix.IPPROTO_TCP})
	}
	for _, k := range kinds {
		calls = append(calls, where("socket", equal(0, k.family), equal(1, k.kind), equal(2, k.protocol)))
	}
	return calls
}

// optionCalls are the socket options that we, and net for us, set and ask for.
func optionCalls(more [][2]uint32) (calls []permission) {
	for _, o := range append([][2]uint32{
		{unix.SOL_SOCKET, unix.SO_BROADCAST}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_SOCKET, unix.SO_LINGER}, {unix.SOL_SOCKET, unix.SO_REUSEADDR},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		{unix.IPPROTO_UDP, unix.UDP_GRO}, {unix.SOL_SOCKET, unix.SO_RCVBUF},
		{unix.IPPROTO_IP, unix.IP_RECVERR}, {unix.IPPROTO_IPV6, unix.IPV6_RECVERR}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
		{unix.IPPROTO_IP, unix.IP_TRANSPARENT}, {unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}, // in the sandbox's namespace, whose owner we are
	}, more...) {
		calls = append(calls, where("setsockopt", equal(1, o[0]), equal(2, o[1])))
	}
	return append(calls, where("getsockopt", equal(1, unix.SOL_SOCKET)), where("getsockopt", equal(1, unix.IPPROTO_UDP), equal(2, unix.UDP_SEGMENT)))
}
