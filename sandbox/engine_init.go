//go:build linux

package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Profile "engine" has two user namespaces, one in the other, because root inside may undo whatever its own user namespace
// has done: unmount covers, make read-only mounts writable, change addresses.
//
//	outer   init, PID 1: the walls. They are built here, as for any program
//	 inner  what rootlesskit starts: a mount namespace whose mounts were copied from the outer one, which locks them and
//	        their flags; a network namespace with the TAP; CMD, which is root here and nobody in the outer one
//
// Init therefore does not run CMD. It runs rootlesskit (package engine), which makes the inner namespaces, has our driver
// make the link in them, and there executes [EngineCommand]. The control socket goes along by the protocol for socket
// activation (LISTEN_FDS), the way in which rootlesskit passes descriptors on.
//
// Called by root, the root inside is the first subordinate uid and not the host's root, whose uid alone would be power
// over /proc/sys, /sys and every file.

const (
	// EngineName is argv[0] of the process that has rootlesskit's parent part, and argv[1] of its child part.
	EngineName = "weir-engine"
	// EngineCommandName is argv[1] of what rootlesskit executes inside, which calls [EngineCommand].
	EngineCommandName = "weir-engine-command"
	// EngineStateDir is a directory of the sandbox's own for rootlesskit; only the outer namespace can reach it in the end.
	EngineStateDir = "/run/.weir-engine"
)

// engineCaps are the capabilities init works with over the outer namespaces: those that it has with any profile, and
// those to make files that are not its own.
func engineCaps() []uintptr {
	return append(initCaps(), unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER)
}

// engineInit is the life of PID 1 with profile "engine".
func engineInit(ctl *control, o orders) error {
	if m, _, err := ctl.receive(); err != nil || m.Op != opMapped {
		return fmt.Errorf("wait for ids: got %q, %v", m.Op, err)
	}
	o.Dir = inodeOf(o.Spec.Dir)
	if err := EngineLifeline(); err != nil {
		return err
	}
	if err := dropGroups(); err != nil {
		return err
	}
	if _, err := buildWalls(o); err != nil {
		return err
	}
	if err := EngineShy(); err != nil {
		return err
	}
	o.Ignored = ignoredSignals()
	ignoreSignals()
	pid, err := startEngine(o)
	if err != nil {
		return err
	}
	reap(pid) // how CMD ended is told from inside
	return nil
}

// awaitHangup returns when the other end of a socket is closed. It reads nothing.
func awaitHangup(fd int) {
	for {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always told
		if n, err := unix.Poll(p, -1); err != nil && err != unix.EINTR || n > 0 {
			return
		}
	}
}

// dropGroups makes the caller's groups mean nothing inside.
func dropGroups() error {
	if err := syscall.Setgroups(nil); err != nil {
		return &SetupError{Step: StepConfine, Path: "groups", Err: err}
	}
	return nil
}

// startEngine starts rootlesskit's parent part as the user that is to be root inside.
func startEngine(o orders) (int, error) {
	fail := func(what string, err error) (int, error) {
		return 0, &SetupError{Step: StepEngine, Path: what, Err: err}
	}
	if err := rewriteOrders(o.inner()); err != nil {
		return fail("orders", err)
	}
	own := o.owner()
	if err := os.Mkdir(EngineStateDir, 0o700); err != nil {
		return fail(EngineStateDir, err)
	}
	if err := os.Chown(EngineStateDir, own.uid, own.gid); err != nil {
		return fail(EngineStateDir, err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(os.DevNull, err)
	}
	defer unix.Close(null)
	stderr := uintptr(null)
	if o.Spec.Debug {
		stderr = 2
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{EngineName, EngineName}, &syscall.ProcAttr{
		Dir: "/", Env: engineEnv(),
		Files: []uintptr{uintptr(null), uintptr(null), stderr, controlFd, ordersFd},
		Sys: &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: uint32(own.uid), Gid: uint32(own.gid), NoSetGroups: true},
			// What newuidmap and newgidmap need, which are not setuid in here.
			AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP},
			Pdeathsig:   syscall.SIGKILL,
		},
	})
	if err != nil {
		return fail("start", err)
	}
	return pid, nil
}

// engineEnv is the environment of rootlesskit: where its helpers are, and how many descriptors go along.
func engineEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LISTEN_PID=0", "LISTEN_FDS=2", // for whoever is executed, and not for one process only
	}
}

// owner is who may write what is made for CMD: the root inside, by its ids in the outer namespace.
type owner struct{ uid, gid int }

// owner returns the ids that CMD's files get: init's own where CMD has init's, else those of the root inside.
func (o orders) owner() owner {
	if !o.Spec.isEngine() || !o.AsRoot {
		return owner{os.Geteuid(), os.Getegid()}
	}
	return owner{o.Spec.SubUIDs[0].Start, o.Spec.SubGIDs[0].Start}
}

// options are those of a tmpfs.
func (w owner) options(more ...string) []string {
	return append(more, fmt.Sprintf("uid=%d", w.uid), fmt.Sprintf("gid=%d", w.gid))
}

// subIDs is /etc/subuid or /etc/subgid in the outer namespace: what rootlesskit finds for the user that it runs as.
func (o orders) subIDs(ranges []IDRange, id int) []byte {
	var b strings.Builder
	for _, r := range ranges {
		if r.Start == id { // it is root inside
			r.Start, r.Count = r.Start+1, r.Count-1
		}
		if r.Count > 0 {
			fmt.Fprintf(&b, "%d:%d:%d\n", o.owner().uid, r.Start, r.Count)
		}
	}
	return []byte(b.String())
}

// inner returns the orders as far as the inner namespaces need them: root inside can read what a process there was given.
func (o orders) inner() orders {
	o.Sockets = nil
	o.Spec.Home, o.Spec.Var, o.Spec.Hide, o.Spec.ReadOnly, o.Spec.Files = "", "", nil, nil, nil
	return o
}

// rewriteOrders replaces what [readOrders] returns, for this process and those that it starts.
func rewriteOrders(o orders) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(ordersFd, 0); err != nil {
		return err
	}
	_, err = unix.Pwrite(ordersFd, b, 0)
	return err
}
