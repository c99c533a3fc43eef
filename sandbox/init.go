//go:build linux

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	initName  = "weir-init" // argv[0] of init, all that the sandbox can see of it
	controlFd = 3
	ordersFd  = 4

	exitFailed = 125 // nobody sees it: the launcher goes by the messages
)

// IsInit says whether this process is the init of a sandbox: then main calls [InitMain] before anything else.
func IsInit() bool { return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == initName }

// InitMain is PID 1 of a sandbox. It never returns, and ends without the runtime's last words: nothing waits for them.
func InitMain() {
	unix.CloseOnExec(controlFd)
	unix.CloseOnExec(ordersFd)
	ctl, err := openControl()
	if err != nil {
		syscall.Exit(exitFailed) // not started by a launcher
	}
	if err := runInit(ctl); err != nil {
		ctl.send(message{Op: opFailed, Failure: newFailure(err)})
		syscall.Exit(exitFailed)
	}
	syscall.Exit(0)
}

// runInit is the life of a sandbox.
func runInit(ctl *control) error {
	if err := dropInheritedFds(); err != nil {
		return err
	}
	umask := unix.Umask(0o022)
	o, err := readOrders()
	if err != nil {
		return err
	}
	o.Dir, o.Umask = inodeOf(o.Spec.Dir), umask
	if o.Spec.isEngine() {
		return engineInit(ctl, o)
	}
	unix.Close(controlFd)
	unix.Close(ordersFd)
	net, err := buildWalls(o)
	if err != nil {
		return err
	}
	ready := net.ready()
	ready.Held = held()
	if err := ctl.send(ready, net.fds()...); err != nil {
		return err
	}
	net.close()

	ignoreSignals()
	m, _, err := ctl.receive()
	if err != nil || m.Op != opGo {
		return fmt.Errorf("wait for release: got %q, %v", m.Op, err)
	}
	unix.Umask(umask)
	pid, err := startCommand(o)
	if err != nil {
		return err
	}
	if err := ctl.send(message{Op: opStarted}); err != nil {
		return err
	}
	go forward(ctl, pid)
	return ctl.send(reap(pid))
}

// buildWalls does all that needs a capability but the last step, which is to give them up.
func buildWalls(o orders) (*network, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, &SetupError{Step: StepMount, Path: "/", Err: fmt.Errorf("make private: %w", err)}
	}
	proc, err := newTree("proc", flagsData)
	if err != nil {
		return nil, &SetupError{Step: StepProc, Err: errors.Unwrap(err)}
	}
	if err := unix.Sethostname([]byte(o.Spec.Hostname)); err != nil {
		return nil, &SetupError{Step: StepNamespaces, Path: "hostname", Err: err}
	}
	if err := limitNamespace(proc); err != nil {
		return nil, err
	}
	var net *network
	more := maxNamespaces
	if !o.Spec.isEngine() { // then the network is the inner namespaces'
		more = 0
		if err := tuneKernel(proc, o.Spec); err != nil {
			return nil, err
		}
		if net, err = buildNetwork(o.Spec); err != nil {
			return nil, err
		}
	}
	namespaces, err := openNamespaceLimits(proc)
	if err != nil {
		return nil, err
	}
	if err := buildRoot(o, proc); err != nil {
		return nil, err
	}
	return net, namespaces.limit(more)
}

// dropInheritedFds closes what the launcher itself inherited from somewhere and did not mark close-on-exec. Every
// descriptor that the Go runtime opened is marked.
func dropInheritedFds() error {
	names, err := readDirNames("/proc/self/fd")
	if err != nil {
		return &SetupError{Step: StepConfine, Path: "/proc/self/fd", Err: err}
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

func readDirNames(p string) ([]string, error) {
	d, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func readOrders() (orders, error) {
	var o orders
	fd, err := unix.FcntlInt(ordersFd, unix.F_DUPFD_CLOEXEC, 3) // others may have to read it too
	var b []byte
	if err == nil {
		f := os.NewFile(uintptr(fd), "spec")
		defer f.Close()
		b, err = io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return o, &SetupError{Step: StepInit, Err: fmt.Errorf("read spec: %w", err)}
	}
	return o, nil
}

// inode identifies a directory across the change of roots.
type inode struct{ Dev, Ino uint64 }

func inodeOf(p string) inode {
	var st unix.Stat_t
	if p == "" || unix.Stat(p, &st) != nil {
		return inode{}
	}
	return inode{st.Dev, st.Ino}
}

// forward delivers the launcher's signals to CMD, and ends the sandbox with the launcher.
func forward(ctl *control, pid int) {
	for {
		m, fds, err := ctl.receive()
		closeAll(fds)
		if err != nil {
			syscall.Exit(exitFailed)
		}
		if m.Op == opSignal {
			syscall.Kill(pid, syscall.Signal(m.Signal))
		}
	}
}
