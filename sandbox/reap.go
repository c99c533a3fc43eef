//go:build linux

package sandbox

import (
	"os"
	"os/signal"
	"syscall"
)

// ignoreSignals makes init deaf to what a terminal or a process group signal tells all of the group: CMD gets these by
// itself, the rest comes by the control socket. They are caught and not ignored, because CMD would inherit the latter;
// what the caller ignores (nohup) stays ignored for CMD.
func ignoreSignals() {
	deaf := make(chan os.Signal, 1) // never read: the runtime drops what does not fit
	for _, s := range groupSignals() {
		if !signal.Ignored(s) {
			signal.Notify(deaf, s)
		}
	}
}

// groupSignals are those that come to a whole group.
func groupSignals() []syscall.Signal {
	return []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH, syscall.SIGCONT,
	}
}

// ignoredSignals lists those that the caller has told its children to ignore.
func ignoredSignals() (list []int) {
	for _, s := range groupSignals() {
		if signal.Ignored(s) {
			list = append(list, int(s))
		}
	}
	return list
}

// reap waits for children, ours and adopted ones, until CMD is among them. Returning ends init and so the kernel kills
// whatever CMD left.
func reap(cmd int) message {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR || pid != cmd && err == nil:
		case err != nil:
			return message{Op: opFailed, Failure: newFailure(err)} // CMD cannot be lost: it is our child until here
		case ws.Signaled():
			return message{Op: opExit, Signal: int(ws.Signal())}
		default:
			return message{Op: opExit, Code: ws.ExitStatus()}
		}
	}
}
