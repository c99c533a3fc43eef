//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/sandbox"
)

// startStatus is the exit status for a run that did not come to its program.
func startStatus(err error) int {
	var ee *sandbox.ExecError
	switch {
	case !errors.As(err, &ee):
		return statusBeforeStart
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 127
	}
	return 126
}

// withHint adds what mends a failed start, where that is known.
func withHint(err error) error {
	var se *sandbox.SetupError
	var ee *sandbox.ExecError
	switch {
	case errors.As(err, &ee) && errors.Is(err, exec.ErrNotFound):
		return notInside(ee.Name, err)
	case errors.Is(err, lockdown.ErrNoSeccomp):
		return hint(err, "%s", seccompFix)
	case !errors.As(err, &se):
		return err
	}
	switch se.Step {
	case sandbox.StepNamespaces:
		return hint(err, "%s", namespaceFix(err))
	case sandbox.StepMapIDs:
		return hint(err, "%s", mapIDsFix(se))
	case sandbox.StepTap, sandbox.StepLink:
		return hint(err, "%s", tunFix(err))
	case sandbox.StepDoor:
		return hint(err, "weir run --door netstack ..., or sudo modprobe -a %s; see: weir doctor nft-tproxy", doorModules)
	case sandbox.StepSpec:
		if strings.HasPrefix(se.Path, "std") {
			return hint(err, "put a pipe in between: cat | weir run ... | cat")
		}
		if se.Path == "/" {
			return hint(err, "--share DIR for each directory that is needed, or --fs host to show all of the host's files")
		}
	case sandbox.StepProc:
		return hint(err, "give the container an unmasked /proc: podman run --security-opt unmask=/proc/*, docker run --security-opt systempaths=unconfined")
	}
	return err
}

// doorModules are the parts of the kernel that the tproxy door is made of, holdModules those with which it holds SYNs.
const (
	doorModules = "nf_tables nft_tproxy nf_tproxy_ipv4 nf_tproxy_ipv6 nft_log nfnetlink_log"
	holdModules = "nfnetlink_queue nft_queue nft_compat xt_NFQUEUE"
)

// seccompFix is for a kernel that takes no filter for system calls, and for what stands between it and weir.
const seccompFix = "use a kernel with CONFIG_SECCOMP_FILTER; in a container, a seccomp profile that permits seccomp(2); see: weir doctor"

// notInside says how a program that is there outside is shown inside.
func notInside(name string, err error) error {
	path, lookErr := exec.LookPath(name)
	switch {
	case strings.Contains(name, "/"):
		err = fmt.Errorf("exec %s: not found inside the sandbox", name)
		if lookErr != nil {
			return err
		}
	case lookErr != nil:
		return err
	}
	if !filepath.IsAbs(path) { // as is its directory, which the sandbox does not show either: CMD starts in the home
		return hint(err, "weir run --share .:ro -- ... (the current directory is not shown inside)")
	}
	return hint(err, "weir run --share %s:ro -- ... (it is at %s outside, which the sandbox does not show)", path, path)
}

// namespaceFix finds out what keeps an ordinary user from making user namespaces.
func namespaceFix(err error) string {
	switch {
	case nested():
		return "run weir outside: this is the inside of a weir sandbox, where no other can be made"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or load an AppArmor profile for weir; see: weir doctor)"
	case sysctl("kernel/unprivileged_userns_clone") == "0":
		return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case sysctl("user/max_user_namespaces") == "0" || errors.Is(err, syscall.ENOSPC):
		return "sudo sysctl -w user.max_user_namespaces=15000"
	}
	return "allow user namespaces: in a container, a seccomp profile that permits clone(CLONE_NEWUSER) and mount; see: weir doctor"
}

// nested reports whether this weir runs in a sandbox of another one, by the name of PID 1.
func nested() bool {
	b, err := os.ReadFile("/proc/1/cmdline")
	return err == nil && strings.HasPrefix(string(b), "weir-init\x00")
}

func tunFix(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "sudo chmod 0666 /dev/net/tun, or weir run --link veth"
	}
	return "sudo modprobe tun, or weir run --link veth (in a container: --device /dev/net/tun)"
}

// sysctl reads a kernel setting; "" when there is none.
func sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
