//go:build linux

package sandbox

import (
	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// What CMD may ask of the kernel. Two filters are put on the thread that executes it; the kernel takes the stricter answer:
//
//   - calls that a tool has no use for and kernels had holes in are refused by name (refusedCalls, missingCalls);
//   - arguments are looked at by a program of our own (arguments.go), which also refuses every call of another
//     architecture than ours and every call that is newer than this list: the library's filter would let those pass.
//
// What is refused with ENOSYS is what programs expect of an older kernel, and go round. What is allowed is allowed for a
// reason that the table in syscalls_amd64_test.go gives: each call of the architecture is in one of the lists.

// refusedCalls are refused with EPERM.
var refusedCalls = []string{
	// Into other processes, and what they hold.
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp",
	// Keys belong to the user and not to the sandbox.
	"keyctl", "add_key", "request_key",
	// Large interfaces where most of the kernel's holes were.
	"bpf", "perf_event_open", "userfaultfd", "modify_ldt",
	// Files by a number instead of a path, and news of what others do with files.
	"open_by_handle_at", "fanotify_init",
	// The file tree, by the old and by the new calls.
	"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount",
	"fspick", "mount_setattr", "quotactl", "quotactl_fd",
	// Namespaces of others.
	"setns", "sethostname", "setdomainname",
	// Where memory lies, of other processes too.
	"mbind", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages",
	// The machine.
	"swapon", "swapoff", "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
	"acct", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "vhangup", "lsm_set_self_attr",
}

// missingCalls are refused with ENOSYS.
var missingCalls = []string{
	"io_uring_setup", "io_uring_enter", "io_uring_register", // they do what a filter cannot see
	"clone3",                                                                                                                  // its flags lie in memory
	"io_setup",                                                                                                                // takes from a total that all users of the machine share (fs.aio-max-nr)
	"memfd_secret",                                                                                                            // memory that the kernel itself cannot read
	"uselib", "ustat", "sysfs", "_sysctl", "nfsservctl", "lookup_dcookie", "create_module", "query_module", "get_kernel_syms", // nobody calls these any more
}

// filterSyscalls puts the filters on the calling thread, and so on what it executes. It comes last in confine.
func filterSyscalls() error { return loadFilters(refusedCalls, missingCalls, callFilters()) }

func loadFilters(refused, missing []string, arguments []callFilter) error {
	fail := func(err error) error { return &SetupError{Step: StepConfine, Path: "seccomp", Err: err} }
	info, err := arch.GetInfo("")
	if err != nil {
		return fail(err)
	}
	if err := filterArguments(uint32(info.ID), arguments); err != nil {
		return fail(err)
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		{Action: errnoAction(unix.EPERM), Names: known(info, refused)},
		{Action: errnoAction(unix.ENOSYS), Names: known(info, missing)},
	}}
	if err := seccomp.LoadFilter(seccomp.Filter{Policy: policy}); err != nil {
		return fail(err)
	}
	return nil
}

func errnoAction(errno unix.Errno) seccomp.Action {
	return seccomp.Action(unix.SECCOMP_RET_ERRNO | uint32(errno))
}

// known drops the calls that this architecture does not have. One that the library has no name for yet is newer than
// lastCall and refused as such; a test holds that.
func known(info *arch.Info, names []string) (out []string) {
	for _, n := range names {
		if _, ok := info.SyscallNames[n]; ok {
			out = append(out, n)
		}
	}
	return out
}
