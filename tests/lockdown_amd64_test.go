//go:build linux

package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

func startUnlocked(t *testing.T, control *os.File) int {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir(), "weir-under-test"))
	cmd.Args = []string{"weir-datapath"}
	cmd.ExtraFiles = []*os.File{control}
	if err := playground.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// attempt is a system call that a data path in the wrong hands would make. Before the lock-down it gives without; after
// it the kernel refuses it, or ends the process.
type attempt struct {
	name    string
	nr      uintptr
	args    []any
	without unix.Errno // 0: it succeeds
}

// high are bits that the kernel does not read of a 32-bit argument: a filter that compares it in a wrong way can be evaded.
const high = uintptr(1) << 32

// noFile is no descriptor: a call that gets as far as looking for it says EBADF.
const noFile = 999

// refused are the calls that fail after the lock-down, all with EPERM. dir is a directory of the user's with a file
// "secret", launcher the process id of weir itself.
func refused(dir string, launcher, dataPath int) []attempt {
	secret, at := filepath.Join(dir, "secret"), unix.AT_FDCWD
	return []attempt{
		{"read a file of the user", unix.SYS_OPENAT, []any{at, secret, unix.O_RDONLY}, 0},
		{"read a file of the system", unix.SYS_OPENAT, []any{at, "/etc/passwd", unix.O_RDONLY}, 0},
		{"read a file, older call", unix.SYS_OPEN, []any{secret, unix.O_RDONLY}, 0},
		{"read a file, newer call", unix.SYS_OPENAT2, []any{at, secret, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 24}, 0},
		{"list a directory", unix.SYS_OPENAT, []any{at, dir, unix.O_RDONLY | unix.O_DIRECTORY}, 0},
		{"look at another process", unix.SYS_OPENAT, []any{at, fmt.Sprintf("/proc/%d/environ", os.Getppid()), unix.O_RDONLY | unix.O_PATH}, 0},
		{"write a file", unix.SYS_OPENAT, []any{at, secret, unix.O_WRONLY}, 0},
		{"append to a file", unix.SYS_OPENAT, []any{at, secret, unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NONBLOCK | unix.O_CLOEXEC, 0o600}, 0},
		{"make a file", unix.SYS_OPENAT, []any{at, filepath.Join(dir, "made"), unix.O_WRONLY | unix.O_CREAT, 0o600}, 0},
		{"make a file, older call", unix.SYS_CREAT, []any{filepath.Join(dir, "created"), 0o600}, 0},
		{"make a directory", unix.SYS_MKDIRAT, []any{at, filepath.Join(dir, "d"), 0o700}, 0},
		{"make a symbolic link", unix.SYS_SYMLINKAT, []any{"/", at, filepath.Join(dir, "l")}, 0},
		{"make a hard link", unix.SYS_LINKAT, []any{at, secret, at, filepath.Join(dir, "h"), 0}, 0},
		{"make a device", unix.SYS_MKNODAT, []any{at, filepath.Join(dir, "fifo"), unix.S_IFIFO | 0o600, 0}, 0},
		{"change a mode", unix.SYS_FCHMODAT, []any{at, secret, 0o666}, 0},
		{"cut a file", unix.SYS_TRUNCATE, []any{secret, 0}, 0},
		{"rename a file", unix.SYS_RENAMEAT, []any{at, filepath.Join(dir, "l"), at, filepath.Join(dir, "l2")}, 0},
		{"rename a file, newer call", unix.SYS_RENAMEAT2, []any{at, filepath.Join(dir, "l2"), at, filepath.Join(dir, "l3"), 0}, 0},
		{"remove a file", unix.SYS_UNLINKAT, []any{at, filepath.Join(dir, "l3"), 0}, 0},
		{"watch files", unix.SYS_INOTIFY_INIT1, []any{0}, 0},

		{"UNIX socket", unix.SYS_SOCKET, []any{unix.AF_UNIX, unix.SOCK_STREAM, 0}, 0},
		{"UNIX socket as net makes it", unix.SYS_SOCKET, []any{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, 0}, 0},
		{"UNIX socket, high bits", unix.SYS_SOCKET, []any{unix.AF_UNIX | high, unix.SOCK_DGRAM, 0}, 0},
		{"UNIX socket pair", unix.SYS_SOCKETPAIR, []any{unix.AF_UNIX, unix.SOCK_STREAM, 0, "12345678"}, 0},
		{"netlink socket of another kind", unix.SYS_SOCKET, []any{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG}, 0},
		{"netlink socket of another kind, high bits", unix.SYS_SOCKET, []any{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG | high}, 0},
		{"raw socket", unix.SYS_SOCKET, []any{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, unix.EPERM},
		{"packet socket", unix.SYS_SOCKET, []any{unix.AF_PACKET, unix.SOCK_RAW, 0}, unix.EPERM},
		{"vsock", unix.SYS_SOCKET, []any{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, unix.EAFNOSUPPORT},
		{"crypto socket", unix.SYS_SOCKET, []any{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, unix.EAFNOSUPPORT},
		{"to listen", unix.SYS_LISTEN, []any{noFile, 1}, unix.EBADF},
		{"a program in a socket", unix.SYS_SETSOCKOPT, []any{noFile, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, "", 4}, unix.EBADF},
		{"a protocol over TCP", unix.SYS_SETSOCKOPT, []any{noFile, unix.IPPROTO_TCP, unix.TCP_ULP, "tls", 3}, unix.EBADF},
		{"options of a TAP", unix.SYS_IOCTL, []any{noFile, unix.TUNSETIFF, 0}, unix.EBADF},
		{"to type on a terminal", unix.SYS_IOCTL, []any{noFile, unix.TIOCSTI, "x"}, unix.EBADF},
		{"to type on a terminal, high bits", unix.SYS_IOCTL, []any{noFile, unix.TIOCSTI | high, "x"}, unix.EBADF},
		{"to own a descriptor", unix.SYS_FCNTL, []any{noFile, unix.F_SETOWN, launcher}, unix.EBADF},

		{"signal to weir", unix.SYS_KILL, []any{launcher, 0}, 0},
		{"signal to a thread of weir", unix.SYS_TGKILL, []any{launcher, launcher, 0}, 0},
		{"signal to everybody", unix.SYS_KILL, []any{-1, 0}, 0},
		{"another process", unix.SYS_CLONE, []any{unix.CLONE_SIGHAND}, unix.EINVAL},
		{"a thread in a new namespace", unix.SYS_CLONE, []any{unix.CLONE_THREAD | unix.CLONE_NEWUSER}, unix.EINVAL},
		{"memory that is executable", unix.SYS_MMAP, []any{0, 4096, unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC, unix.MAP_ANON | unix.MAP_PRIVATE, -1, 0}, 0},
		{"to make memory executable", unix.SYS_MPROTECT, []any{0, 0, unix.PROT_EXEC}, 0},
		{"memory that is executable, where kill has its process", unix.SYS_MMAP, []any{dataPath, 4096, unix.SYS_KILL, unix.MAP_ANON | unix.MAP_PRIVATE, -1, 0}, 0},
		{"shared memory", unix.SYS_SHMGET, []any{0, 4096, 0o600}, 0},
		{"to be dumpable", unix.SYS_PRCTL, []any{unix.PR_SET_DUMPABLE, 1}, 0},
		{"other limits", unix.SYS_PRLIMIT64, []any{launcher, unix.RLIMIT_CORE, 0, 0}, 0},
	}
}

// deadly are the calls that end the process: no code of ours makes them.
func deadly() []attempt {
	return []attempt{
		{"execve", unix.SYS_EXECVE, []any{"/no/such", 0, 0}, unix.ENOENT},
		{"execveat", unix.SYS_EXECVEAT, []any{unix.AT_FDCWD, "/no/such", 0, 0, 0}, unix.ENOENT},
		{"ptrace", unix.SYS_PTRACE, []any{unix.PTRACE_PEEKDATA, 1 << 30}, unix.ESRCH},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, []any{1 << 30, 0, 0, 0, 0, 0}, 0},
		{"mount", unix.SYS_MOUNT, []any{"", "/no/such", "", 0, ""}, unix.ENOENT},
		{"unshare", unix.SYS_UNSHARE, []any{0}, 0},
		{"setns", unix.SYS_SETNS, []any{noFile, 0}, unix.EBADF},
		{"bpf", unix.SYS_BPF, []any{-1, 0, 0}, unix.EINVAL},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, []any{1, 0}, unix.EFAULT},
		{"userfaultfd", unix.SYS_USERFAULTFD, []any{1}, 0},
		{"init_module", unix.SYS_INIT_MODULE, []any{0, 0, 0}, unix.EPERM},
		{"keyctl", unix.SYS_KEYCTL, []any{-1}, unix.EOPNOTSUPP},
		{"memfd_create", unix.SYS_MEMFD_CREATE, []any{"x", 0}, 0},
		{"personality", unix.SYS_PERSONALITY, []any{0xffffffff}, 0},
	}
}

// TestPossessedDataPath makes the data path of a running sandbox try what an attacker in it would.
func TestPossessedDataPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startReady(t, "weir", "run", "-q", "--allow", "tools.example:7", "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro", "--", "sh", "-c",
		"echo ready; read line; /run/probe tcp tools.example:7 still")
	attempts := refused(dir, r.cmd.Process.Pid, dataPathOf(t, r.cmd.Process.Pid))
	locked, unlocked := possess(t, dataPathOf(t, r.cmd.Process.Pid)), possess(t, unlockedDataPath(t))
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			if got := locked.do(a.nr, a.args...); got.err != nil || got.errno != unix.EPERM {
				t.Errorf("got %+v, want EPERM", got)
			}
			if got := unlocked.do(a.nr, a.args...); got.err != nil || !asWithout(a, got.errno) {
				t.Errorf("without the lock-down: %+v, want %v", got, a.without)
			}
		})
	}
	locked.release()
	fmt.Fprintln(r.stdin)
	if out, status := r.rest(t); out != "still\n" || status != 0 {
		t.Errorf("afterwards the sandbox said %q, status %d; stderr %q", out, status, r.stderr.String())
	}
}

// asWithout says whether a call that is not refused gave what it should. Kernels without a socket family, or without a
// call at all, show less.
func asWithout(a attempt, got unix.Errno) bool {
	if a.without == unix.EAFNOSUPPORT || a.without == unix.EOPNOTSUPP {
		return got == 0 || got == a.without
	}
	root := os.Geteuid() == 0
	return got == a.without || got == unix.ENOSYS || a.without == unix.EPERM && root && got != unix.EACCES
}

// TestDeadlyCalls: no second try.
func TestDeadlyCalls(t *testing.T) {
	unlocked := possess(t, unlockedDataPath(t))
	for _, a := range deadly() {
		t.Run(a.name, func(t *testing.T) {
			if got := unlocked.do(a.nr, a.args...); got.err != nil || got.killed != 0 || got.errno != a.without && got.errno != unix.ENOSYS && got.errno != unix.EPERM {
				t.Errorf("without the lock-down: %+v, want %v", got, a.without)
			}
			r := startReady(t, "weir", "run", "--", "sh", "-c", "echo ready; exec sleep 1000")
			if got := possess(t, dataPathOf(t, r.cmd.Process.Pid)).do(a.nr, a.args...); got.killed != unix.SIGSYS {
				t.Fatalf("got %+v, want death by SIGSYS", got)
			}
			if _, status := r.rest(t); status != 128+int(unix.SIGKILL) || !strings.Contains(r.stderr.String(), "the data path ended (signal: bad system call)") {
				t.Errorf("status %d, stderr %q", status, r.stderr.String())
			}
		})
	}
}
