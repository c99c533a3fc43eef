//go:build linux

package sandbox

import (
	"fmt"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// What package engine calls on behalf of rootlesskit. All of it is executed with the control socket and the orders as
// descriptors 3 and 4.

// EngineSpec returns what the launcher asked for, as far as the inner namespaces are concerned, and whether CMD is to
// share the caller's terminal.
func EngineSpec() (spec Spec, sharedTerminal bool, err error) {
	o, err := readOrders()
	return o.Spec, o.SharedTerminal, err
}

// EngineLifeline ends the process when the launcher has gone.
func EngineLifeline() error {
	fd, err := unix.FcntlInt(controlFd, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return &SetupError{Step: StepInit, Path: "control socket", Err: err}
	}
	go func() {
		awaitHangup(fd)
		syscall.Exit(exitFailed)
	}()
	return nil
}

// EngineShy closes what /proc tells of the calling process. Root inside has init's uid, and can uncover the /proc of the
// outer namespace.
func EngineShy() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return &SetupError{Step: StepConfine, Path: "dumpable", Err: err}
	}
	return nil
}

// EngineNetwork makes the link and all that belongs to the network in the namespaces of the calling process, which needs
// capabilities over them, and sends the descriptors to the launcher. It returns the link's name. The process must live
// as long as the sandbox: it serves [Sandbox.DialSocket].
func EngineNetwork() (string, error) {
	o, err := readOrders()
	if err != nil {
		return "", err
	}
	ctl, err := openControl()
	if err != nil {
		return "", err
	}
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &SetupError{Step: StepProc, Err: err}
	}
	defer unix.Close(proc)
	if err := tuneKernel(tree{fd: proc}, o.Spec); err != nil {
		return "", err
	}
	net, err := buildNetwork(o.Spec)
	if err != nil {
		return "", err
	}
	defer net.close()
	if net.netns, err = unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return "", &SetupError{Step: StepInit, Path: "network namespace", Err: err}
	}
	m := net.ready()
	m.Op, m.Held = opLink, engineHeld()
	return linkName, ctl.send(m, net.fds()...)
}

// EngineFailed tells the launcher why there will be no sandbox. The first who says so is heard.
func EngineFailed(err error) {
	if ctl, cerr := openControl(); cerr == nil {
		ctl.send(message{Op: opFailed, Failure: newFailure(err)})
	}
}

// EngineCommand executes CMD when the launcher says so, as root over the inner namespaces, tells how it ended, and
// returns. It is what rootlesskit takes for the command.
func EngineCommand() {
	unix.CloseOnExec(controlFd)
	unix.CloseOnExec(ordersFd)
	ctl, err := newControl(controlFd)
	if err != nil {
		syscall.Exit(exitFailed) // not started by a sandbox
	}
	if err := runEngineCommand(ctl); err != nil {
		ctl.send(message{Op: opFailed, Failure: newFailure(err)})
		syscall.Exit(exitFailed)
	}
}

func runEngineCommand(ctl *control) error {
	if err := dropInheritedFds(); err != nil {
		return err
	}
	o, err := readOrders()
	if err != nil {
		return err
	}
	if err := limitResources(); err != nil {
		return err
	}
	if err := finishEtc(o); err != nil {
		return err
	}
	if o.SharedTerminal { // then rootlesskit's reaper, which makes a session of its own, is not asked for
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return &SetupError{Step: StepInit, Path: "reaper", Err: err}
		}
	}
	for _, s := range o.Ignored { // rootlesskit has caught them on the way
		signal.Ignore(syscall.Signal(s))
	}
	ignoreSignals()
	if err := ctl.send(message{Op: opReady}); err != nil {
		return err
	}
	m, streams, err := ctl.receive()
	if err != nil || m.Op != opGo || len(streams) != 3 {
		return fmt.Errorf("wait for release: got %q with %d descriptors, %v", m.Op, len(streams), err)
	}
	unix.Umask(o.Umask)
	pid, err := startEngineCommand(o, streams)
	closeAll(streams)
	if err != nil {
		return err
	}
	if err := ctl.send(message{Op: opStarted}); err != nil {
		return err
	}
	go forward(ctl, pid)
	return ctl.send(reap(pid))
}

// startEngineCommand is startCommand for a CMD that keeps its capabilities over the inner namespaces.
func startEngineCommand(o orders, streams []int) (pid int, err error) {
	onThreadOfItsOwn(func() {
		if err = confineEngine(); err == nil {
			pid, err = execCommand(o, [3]uintptr{uintptr(streams[0]), uintptr(streams[1]), uintptr(streams[2])})
		}
	})
	return pid, err
}
